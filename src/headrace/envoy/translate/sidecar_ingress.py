"""A Sidecar's ingress: where each of its ports is listened on, and where the application is.

Called by `inbound`. Rules (Istio): without a default endpoint the application is where the client meant; `127.0.0.1`
and `::1` are the loopback interface, `0.0.0.0` and `::` the workload's own address of that family (the loopback
interface where it has none). A listener without `bind` goes by the workload's address. One that is bound for real has
no address that a client meant: the application is then at the same port of the loopback interface.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.envoy.translate.messages import server_address, socket_address
from headrace.envoy.view import Inbound
from headrace.model.sidecar import IngressListener

LOOPBACK, LOOPBACK6 = "127.0.0.1", "::1"
_OWN = {"0.0.0.0": 4, "::": 6}  # noqa: S104 - Istio's words for the workload's own address
_UNIX = "unix://"


def ingress_of(inbound: Inbound) -> Mapping[int, IngressListener]:
    """The listeners of a Sidecar by port."""
    return {listener.port: listener for listener in inbound.ingress}


def needs_addresses(inbound: Inbound) -> bool:
    """Whether the proxy's own addresses decide what it is sent."""
    return any((not item.captured and not item.bind) or _parts(item.endpoint)[0] in _OWN for item in inbound.ingress)


def bound_at(listener: IngressListener, addresses: Sequence[str]) -> str:
    """The address of a listener, which names it also where nothing is bound."""
    return listener.bind or next(iter(addresses), LOOPBACK)


def application_at(listener: IngressListener | None, addresses: Sequence[str]) -> Any | None:
    """Where the application of a port is (None: where the client meant)."""
    if listener is None:
        return None
    host, port = _parts(listener.endpoint)
    if host == _UNIX:
        return server_address(listener.endpoint, 0)
    if not port:
        return None if listener.captured else socket_address(LOOPBACK, listener.port)
    if host in _OWN:
        near = LOOPBACK if _OWN[host] == 4 else LOOPBACK6
        host = next((item for item in addresses if ipaddress.ip_address(item).version == _OWN[host]), near)
    return socket_address(host, port)


def local_application_at(listener: IngressListener | None, number: int, ports: Mapping[int, int]) -> Any:
    """Where the application of port `number` is, when it listens on 127.0.0.1 only; `ports` says where for each of the
    workload's ports."""
    if listener is not None and listener.endpoint.startswith(_UNIX):
        return server_address(listener.endpoint, 0)
    meant = _parts(listener.endpoint)[1] if listener is not None else 0
    port = meant or number
    return socket_address(LOOPBACK, ports.get(port, port))


def _parts(endpoint: str) -> tuple[str, int]:
    """Host and port ('' and 0: nothing is said)."""
    if endpoint.startswith(_UNIX):
        return _UNIX, 0
    host, _, port = endpoint.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    return (host, int(port)) if host and port else ("", 0)
