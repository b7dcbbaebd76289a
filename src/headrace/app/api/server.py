"""The management API's answers, as aiohttp routes over `control_plane.mesh.Mesh`.

Errors are JSON (`{"error": "one line with a remedy"}`) with a fitting status; commands print them as they are.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from headrace.app.control_plane.answers import Refused
from headrace.app.control_plane.mesh import Mesh

_BODY_LIMIT = 32 * 1024 * 1024
_TEXT_LIMIT = 4 * 1024 * 1024
_MESH: web.AppKey[Mesh] = web.AppKey("mesh", Mesh)


def api(mesh: Mesh) -> web.Application:
    """The API's application; serve it on the owner-only socket only: it asks for no credentials."""
    app = web.Application(client_max_size=_BODY_LIMIT, middlewares=[_errors])
    app[_MESH] = mesh
    app.router.add_get("/v1/status", _status)
    app.router.add_get("/v1/proxies", _proxies)
    app.router.add_get("/v1/documents", _documents)
    app.router.add_post("/v1/documents", _apply)
    app.router.add_delete("/v1/documents/{kind}/{namespace}/{name}", _delete)
    app.router.add_get("/v1/describe/{kind}/{namespace}/{name}", _describe)
    return app


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refused as refusal:
        return web.json_response({"error": str(refusal)}, status=refusal.status)
    except web.HTTPException as error:
        return web.json_response({"error": error.reason}, status=error.status)


async def _status(request: web.Request) -> web.Response:
    return web.json_response(request.app[_MESH].status())


async def _proxies(request: web.Request) -> web.Response:
    return web.json_response(request.app[_MESH].proxies())


async def _documents(request: web.Request) -> web.Response:
    query = request.query
    found = request.app[_MESH].get(query.get("kind", "all"), query.get("namespace"), query.get("name"))
    return web.json_response(found)


async def _apply(request: web.Request) -> web.Response:
    try:
        body: Any = json.loads(await request.read())
        sources = [(str(item["file"]), item.get("text")) for item in body["sources"]]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Refused(400, 'the body is {"sources": [{"file": name, "text": YAML}]}') from None
    for name, text in sources:
        if isinstance(text, str) and len(text) > _TEXT_LIMIT:
            raise Refused(400, f"{name}: larger than {_TEXT_LIMIT >> 20} MiB: apply it in parts")
    return web.json_response(request.app[_MESH].apply(sources))


async def _delete(request: web.Request) -> web.Response:
    match = request.match_info
    return web.json_response(request.app[_MESH].delete(match["kind"], match["namespace"], match["name"]))


async def _describe(request: web.Request) -> web.Response:
    match = request.match_info
    return web.json_response(request.app[_MESH].describe(match["kind"], match["namespace"], match["name"]))
