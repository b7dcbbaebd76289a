"""Envoy's admin interface over its owner-only Unix socket: is it live, what is in flight, drain.

Used by `agent.replica`. Every answer is bounded in size and time; AdminError stands for any way of not answering.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp

_ANSWER_LIMIT = 32 << 20
_SECONDS = 2.0
_INBOUND = r"^(http\.inbound.*downstream_rq_active|cluster\.inbound.*upstream_rq(_pending)?_active)$"
_GATEWAY = r"^(http\..*downstream_rq_active|cluster\..*upstream_rq(_pending)?_active)$"


class AdminError(Exception):
    """The proxy does not answer; the message says how, for people."""


class Admin:
    """One Envoy's admin interface. Needs a running event loop; `close` at the end."""

    def __init__(self, socket: Path) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(socket)), timeout=aiohttp.ClientTimeout(total=_SECONDS)
        )

    async def live(self) -> str:
        """An empty string where Envoy is LIVE (configured and listening), else its state, for people."""
        status, body = await self._call("GET", "/ready")
        return "" if status == 200 else f"the proxy is {body.decode(errors='replace').strip().lower()[:80]}"

    async def requests_in_flight(self, gateway: bool) -> int:
        """Requests (and TCP connections) that this proxy is serving: those for its application, or all of a gateway."""
        expression = _GATEWAY if gateway else _INBOUND
        status, body = await self._call("GET", "/stats", filter=expression, format="json")
        if status != 200:
            raise AdminError(f"/stats answered {status}")
        try:
            stats = [item for item in json.loads(body)["stats"] if "name" in item]
        except (ValueError, KeyError, TypeError) as error:
            raise AdminError("/stats is not what was expected") from error
        downstream = sum(_number(item) for item in stats if item["name"].startswith("http.") and _own(item["name"]))
        upstream = sum(_number(item) for item in stats if item["name"].startswith("cluster.") and _own(item["name"]))
        return max(downstream, upstream)

    async def upstream_addresses(self) -> frozenset[tuple[str, int]]:
        """Every endpoint that any cluster of this proxy has now."""
        status, body = await self._call("GET", "/clusters", format="json")
        if status != 200:
            raise AdminError(f"/clusters answered {status}")
        try:
            return frozenset(
                (address["address"], int(address["port_value"]))
                for cluster in json.loads(body).get("cluster_statuses", ())
                for host in cluster.get("host_statuses", ())
                if (address := host.get("address", {}).get("socket_address")) is not None and "port_value" in address
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AdminError("/clusters is not what was expected") from error

    async def drain(self) -> None:
        """Ask every client to close its connection at the next opportunity; listeners keep accepting."""
        await self._call("POST", "/drain_listeners?graceful&skip_exit")

    async def close(self) -> None:
        await self._session.close()

    async def _call(self, method: str, path: str, **query: str) -> tuple[int, bytes]:
        try:
            async with self._session.request(method, f"http://envoy{path}", params=query or None) as response:
                body = await response.content.read(_ANSWER_LIMIT)
                while more := await response.content.read(_ANSWER_LIMIT - len(body) or 1):
                    body += more
                    if len(body) > _ANSWER_LIMIT:
                        raise AdminError(f"{path} answered more than {_ANSWER_LIMIT} bytes")
                return response.status, body
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise AdminError(f"the proxy's admin interface does not answer ({type(error).__name__})") from error


def _own(name: str) -> bool:
    """Leave out what carries discovery and the admin interface itself."""
    return not name.startswith(("http.admin.", "cluster.agent."))


def _number(item: dict[str, Any]) -> int:
    value = item.get("value", 0)
    return value if isinstance(value, int) else 0
