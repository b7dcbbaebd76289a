"""The management API's answers about certificates: what `headrace ca` asks. Routes over `control_plane.trust`."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from headrace.app.control_plane.answers import Refused
from headrace.app.control_plane.trust import TrustKeeper

_TRUST: web.AppKey[TrustKeeper] = web.AppKey("trust", TrustKeeper)
_LONGEST_OVERLAP = 366 * 86400.0


def add_trust(app: web.Application, trust: TrustKeeper) -> None:
    """Serve these answers too."""
    app[_TRUST] = trust
    app.router.add_get("/v1/certificates", _list)
    app.router.add_get("/v1/certificates/{serial}", _inspect)
    app.router.add_get("/v1/authority", _authority)
    app.router.add_post("/v1/revocations", _revoke)
    app.router.add_post("/v1/authority/rotation", _rotate)


async def _list(request: web.Request) -> web.Response:
    return web.json_response(request.app[_TRUST].listing(bool(request.query.get("all"))))


async def _inspect(request: web.Request) -> web.Response:
    return web.json_response(request.app[_TRUST].inspect(request.match_info["serial"]))


async def _authority(request: web.Request) -> web.Response:
    return web.json_response(request.app[_TRUST].authority())


async def _revoke(request: web.Request) -> web.Response:
    body = await _object(request)
    return web.json_response(request.app[_TRUST].revoke({str(key): str(value) for key, value in body.items()}))


async def _rotate(request: web.Request) -> web.Response:
    body = await _object(request)
    overlap = body.get("overlap_seconds", 0.0)
    if not isinstance(overlap, int | float) or not 0 <= overlap <= _LONGEST_OVERLAP:
        raise Refused(400, f"overlap_seconds: use a number from 0 to {_LONGEST_OVERLAP:.0f}")
    return web.json_response(request.app[_TRUST].rotate(float(overlap)))


async def _object(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read() or b"{}")
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Refused(400, "the body is a JSON object")
    return body
