"""Model servers of flow tests that hang, break or err at whatever point of an answer a test says."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

TOKEN = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
ROLE = b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n'
DONE = b"data: [DONE]\n\n"


class ScriptedServer:
    """Plays `script`, one list of steps for each request in turn (the last goes on for ever); counts requests.

    A step is a float (seconds of sleep), bytes (written), a word (`headers`, `break`: the connection is cut, `hang`),
    or an integer (an error with that status).
    """

    def __init__(self, *scripts: list[Any]) -> None:
        self.scripts = scripts
        self.content_type = ""
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []

    def app(self, content_type: str = "text/event-stream") -> web.Application:
        """What answers."""
        self.content_type = content_type
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/{path:.*}", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        steps = self.scripts[min(len(self.bodies), len(self.scripts) - 1)]
        self.bodies.append(json.loads(await request.read()))
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        response = web.StreamResponse(headers={"content-type": self.content_type})
        for step in steps:
            if isinstance(step, float):
                await asyncio.sleep(step)
            elif isinstance(step, int):
                return web.json_response({"error": {"message": "not now"}}, status=step)
            elif step == "hang":
                await asyncio.sleep(3600)
            elif step == "break":
                assert request.transport is not None
                request.transport.abort()
                raise ConnectionResetError
            elif step == "headers":
                await response.prepare(request)
            else:
                if not response.prepared:
                    await response.prepare(request)
                await response.write(step)
        return response
