"""The management API's answers about join tokens: what `headrace token` asks. Routes over `hosts_door.TokenDesk`."""

from __future__ import annotations

import json

from aiohttp import web

from headrace.app.control_plane.answers import Refused
from headrace.app.control_plane.hosts_door import TokenDesk

_DESK: web.AppKey[TokenDesk] = web.AppKey("tokens", TokenDesk)


def add_tokens(app: web.Application, desk: TokenDesk) -> None:
    """Serve these answers too."""
    app[_DESK] = desk
    app.router.add_get("/v1/tokens", _list)
    app.router.add_post("/v1/tokens", _create)
    app.router.add_delete("/v1/tokens/{id}", _delete)


async def _list(request: web.Request) -> web.Response:
    return web.json_response(request.app[_DESK].listing())


async def _create(request: web.Request) -> web.Response:
    try:
        body = json.loads(await request.read())
        host, life = str(body["host"]), float(body["life_seconds"])
    except (ValueError, TypeError, KeyError):
        raise Refused(400, 'the body is {"host": name, "life_seconds": number}') from None
    return web.json_response(request.app[_DESK].create(host, life))


async def _delete(request: web.Request) -> web.Response:
    request.app[_DESK].tokens.delete(request.match_info["id"])
    return web.json_response({})
