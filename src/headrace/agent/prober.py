"""Asks an application once, the way a probe says: by HTTP, by a TCP connection, or by a command.

Used by `agent.application` as the `Ask` of its `ProbeRunner`, which bounds each question in time by cancelling it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import aiohttp

from headrace.agent.capture import APP_ADDRESS, Attachment, CaptureStrategy
from headrace.agent.environment import application_command
from headrace.agent.process import Launch, StartFailed, spawn
from headrace.model.workload import Probe

_LINE_LIMIT = 16384
_AGENT = "headrace-probe/1"


@dataclass(frozen=True, slots=True)
class ProbeWay:
    """The way to one application: `session` is the agent's, without proxies from the environment."""

    session: aiohttp.ClientSession
    capture: CaptureStrategy
    attachment: Attachment

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[aiohttp.ClientSession]:
        """A client that sees the application's 127.0.0.1."""
        found = self.capture.socket(self.attachment, socket.AF_INET, socket.SOCK_STREAM)
        if found is None:
            yield self.session
            return
        async with probe_session(found) as session:
            yield session

    async def connect(self, port: int) -> None:
        """Open a connection and close it again; OSError where nobody listens."""
        found = self.capture.socket(self.attachment, socket.AF_INET, socket.SOCK_STREAM)
        if found is None:
            _, writer = await asyncio.open_connection(APP_ADDRESS, port)
            writer.close()
            return
        with found:
            await asyncio.get_running_loop().sock_connect(found, (APP_ADDRESS, port))


class Prober:
    """Questions to one application process."""

    def __init__(self, way: ProbeWay, command: Launch, environment: Mapping[str, str]) -> None:
        """`command` is the application's own launch: exec probes run in its directory and environment."""
        self._way = way
        self._attachment = way.attachment
        self._command = command
        self._environment = environment
        self._count = itertools.count(1)

    async def ask(self, probe: Probe) -> str:
        """What is wrong, empty where nothing is."""
        port = self._attachment.local_port(probe.port)
        if probe.command:
            return await self._run(probe.command)
        if probe.http_path:
            return await self._get(probe, port)
        return await self._connect(port)

    async def _get(self, probe: Probe, port: int) -> str:
        """Kubernetes' rule: 200 to 399 is success. The body is not read, and redirections count as they are."""
        path = probe.http_path if probe.http_path.startswith("/") else f"/{probe.http_path}"
        headers = {"User-Agent": _AGENT, "Connection": "close", **dict(probe.http_headers)}
        try:
            url = f"http://{APP_ADDRESS}:{port}{path}"
            async with (
                self._way.client() as session,
                session.get(url, headers=headers, allow_redirects=False) as response,
            ):
                return "" if 200 <= response.status < 400 else f"GET {path} answered {response.status}"
        except aiohttp.ClientConnectorError:
            return f"nothing listens on {APP_ADDRESS}:{port} ($PORT)"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return f"GET {path} failed: {type(error).__name__}"

    async def _run(self, command: tuple[str, ...]) -> str:
        words = application_command(command, self._environment)
        launch = Launch(
            words, f"{self._command.mark}probe-{next(self._count)}:", self._environment, self._command.directory
        )
        try:
            child = spawn(self._way.capture.application(self._attachment, launch))
        except StartFailed as error:
            return str(error)
        try:
            how = await child.ended()
            return "" if how == "exited with code 0" else f"{words[0]} {how}"
        finally:
            await asyncio.shield(child.sweep())
            child.close()

    async def _connect(self, port: int) -> str:
        try:
            await self._way.connect(port)
        except OSError:
            return f"nothing listens on {APP_ADDRESS}:{port} ($PORT)"
        return ""


def probe_session(own: socket.socket | None = None) -> aiohttp.ClientSession:
    """A client for probes: new connections each time, bounded headers, no proxy, no cookies. With a socket of `own` it
    is for one question."""
    factory = None if own is None else (lambda _: own)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, limit=0, use_dns_cache=False, socket_factory=factory),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        max_line_size=_LINE_LIMIT,
        max_field_size=_LINE_LIMIT,
        auto_decompress=False,
    )
