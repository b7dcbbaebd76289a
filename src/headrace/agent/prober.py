"""Asks an application once, the way a probe says: by HTTP, by a TCP connection, or by a command.

Used by `agent.application` as the `Ask` of its `ProbeRunner`, which bounds each question in time by cancelling it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping

import aiohttp

from headrace.agent.capture import APP_ADDRESS, Attachment
from headrace.agent.environment import application_command
from headrace.agent.process import Launch, StartFailed, spawn
from headrace.model.workload import Probe

_LINE_LIMIT = 16384
_AGENT = "headrace-probe/1"


class Prober:
    """Questions to one application process. `session` is the agent's, without proxies from the environment."""

    def __init__(
        self, session: aiohttp.ClientSession, attachment: Attachment, command: Launch, environment: Mapping[str, str]
    ) -> None:
        """`command` is the application's own launch: exec probes run in its directory and environment."""
        self._session = session
        self._attachment = attachment
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
        return await _connect(port)

    async def _get(self, probe: Probe, port: int) -> str:
        """Kubernetes' rule: 200 to 399 is success. The body is not read, and redirections count as they are."""
        path = probe.http_path if probe.http_path.startswith("/") else f"/{probe.http_path}"
        headers = {"User-Agent": _AGENT, "Connection": "close", **dict(probe.http_headers)}
        try:
            async with self._session.get(
                f"http://{APP_ADDRESS}:{port}{path}", headers=headers, allow_redirects=False
            ) as response:
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
            child = spawn(launch)
        except StartFailed as error:
            return str(error)
        try:
            how = await child.ended()
            return "" if how == "exited with code 0" else f"{words[0]} {how}"
        finally:
            await asyncio.shield(child.sweep())
            child.close()


async def _connect(port: int) -> str:
    try:
        _, writer = await asyncio.open_connection(APP_ADDRESS, port)
    except OSError:
        return f"nothing listens on {APP_ADDRESS}:{port} ($PORT)"
    writer.close()
    return ""


def probe_session() -> aiohttp.ClientSession:
    """A client for probes: new connections each time, bounded headers, no proxy, no cookies."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, limit=0, use_dns_cache=False),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        max_line_size=_LINE_LIMIT,
        max_field_size=_LINE_LIMIT,
        auto_decompress=False,
    )
