"""Which listener takes a connection, and which of its filter chains.

Called by `proxy`. Rules: Envoy's choice of a listener by original destination (the exact address, then any address,
then the listener that the connection was redirected to), and its filter chain match, which goes criterion by criterion
and never back (envoy.config.listener.v3.FilterChainMatch).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.envoy.trace.matchers import in_range
from headrace.envoy.trace.request import Content, Data, Request, Tls

VIRTUAL_OUTBOUND, VIRTUAL_INBOUND = "virtualOutbound", "virtualInbound"
_ANY = ("0.0.0.0", "::", "")  # noqa: S104 - what listeners say
_TLS_INSPECTOR = "envoy.filters.listener.tls_inspector"
_HTTP_INSPECTOR = "envoy.filters.listener.http_inspector"
_HTTP_WORDS = {Content.HTTP1: ("http/1.1",), Content.HTTP2: ("h2c",), Content.TCP: ()}


@dataclass(frozen=True, slots=True)
class Seen:
    """What the listener filters found out about a connection."""

    transport: str
    server_name: str
    applications: tuple[str, ...]


def listener_for(listeners: Sequence[Data], request: Request) -> tuple[Data | None, str]:
    """The listener that takes the connection, and why."""
    place = f"{request.address}:{request.port}"
    if request.direct:
        found = _at(listeners, request.address, request.port) or _at(listeners, _ANY, request.port)
        return found, f"it listens on {place}"
    entry = next(
        (item for item in listeners if item["name"] == (VIRTUAL_INBOUND if request.inbound else VIRTUAL_OUTBOUND)), None
    )
    if entry is None or request.inbound:
        return entry, f"every connection to the workload is redirected to it (this one was for {place})"
    own = [item for item in listeners if item.get("bind_to_port") is False]
    exact = _at(own, request.address, request.port)
    if exact is not None:
        return exact, f"the connection was for {place}, which is its own address"
    anywhere = _at(own, _ANY, request.port)
    if anywhere is not None:
        return anywhere, f"it takes port {request.port} at any address (the connection was for {place})"
    return entry, f"no service that this proxy sees has port {request.port} or the address {request.address}"


def _at(listeners: Iterable[Data], address: str | Sequence[str], port: int) -> Data | None:
    wanted = (address,) if isinstance(address, str) else address
    for listener in listeners:
        places = [listener["address"], *(item["address"] for item in listener.get("additional_addresses", []))]
        for place in places:
            socket = place.get("socket_address", {})
            if socket.get("port_value") == port and socket.get("address", "") in wanted:
                return listener
    return None


def inspect(listener: Data, request: Request) -> Seen:
    """What the listener's inspectors learn before a chain is chosen."""
    names = {
        item["name"]
        for item in listener.get("listener_filters", [])
        if not _disabled(item.get("filter_disabled"), request.port)
    }
    encrypted = request.tls is not Tls.PLAIN
    if encrypted and _TLS_INSPECTOR in names:
        return Seen("tls", request.sni.lower(), request.alpn)
    words: tuple[str, ...] = ()
    if not encrypted and _HTTP_INSPECTOR in names:
        words = _HTTP_WORDS[request.content]
    return Seen("raw_buffer", "", words)


def _disabled(predicate: Data | None, port: int) -> bool:
    if not predicate:
        return False
    if "or_match" in predicate:
        return any(_disabled(item, port) for item in predicate["or_match"].get("rules", []))
    if "and_match" in predicate:
        return all(_disabled(item, port) for item in predicate["and_match"].get("rules", []))
    if "not_match" in predicate:
        return not _disabled(predicate["not_match"], port)
    if "destination_port_range" in predicate:
        bounds = predicate["destination_port_range"]
        return bool(bounds.get("start", 0) <= port < bounds.get("end", 0))
    return bool(predicate.get("any_match"))


def chain_for(listener: Data, request: Request, seen: Seen) -> tuple[Data | None, str]:
    """The filter chain that takes the connection, and why; None where none does."""
    chains: list[Data] = list(listener.get("filter_chains", []))
    reasons: list[str] = []
    steps: tuple[tuple[str, Callable[[list[Data]], tuple[list[Data], str]]], ...] = (
        ("port", lambda found: _by_port(found, request.port)),
        ("address", lambda found: _by_address(found, "prefix_ranges", request.address)),
        ("server name", lambda found: _by_name(found, seen.server_name)),
        ("transport", lambda found: _by_word(found, "transport_protocol", (seen.transport,))),
        ("application protocol", lambda found: _by_word(found, "application_protocols", seen.applications)),
        ("source", lambda found: _by_address(found, "source_prefix_ranges", request.source)),
    )
    lost = ""
    for label, step in steps:
        chains, reason = step(chains)
        if not chains:
            lost = f"no chain takes the connection's {label} ({reason})"
            break
        if reason:
            reasons.append(f"{label} {reason}")
    if chains:
        return chains[0], "; ".join(reasons) or "it takes every connection"
    default = listener.get("default_filter_chain")
    return default, (f"{lost}, so the default chain has it" if default else lost)


def _match(chain: Data) -> Data:
    match: Data = chain.get("filter_chain_match", {})
    return match


def _by_port(chains: list[Data], port: int) -> tuple[list[Data], str]:
    own = [chain for chain in chains if _match(chain).get("destination_port") == port]
    if own:
        return own, f"{port}"
    rest = [chain for chain in chains if not _match(chain).get("destination_port")]
    named = len(rest) < len(chains)
    return rest, f"{port} has no chain of its own" if named or not rest else ""


def _by_address(chains: list[Data], field: str, address: str) -> tuple[list[Data], str]:
    fits: dict[int, list[Data]] = {}
    for chain in chains:
        for block in _match(chain).get(field, []):
            if address and in_range(block, address):
                fits.setdefault(int(block.get("prefix_len", 0)), []).append(chain)
    if fits:
        longest = max(fits)
        return fits[longest], f"{address} is in a block of {longest} bits"
    return [chain for chain in chains if not _match(chain).get(field)], _unless(chains, field, address or "unknown")


def _unless(chains: list[Data], field: str, value: str) -> str:
    """A word on what did not fit, where there was something to fit."""
    return f"{value} fits none that is named" if any(_match(chain).get(field) for chain in chains) else ""


def _by_name(chains: list[Data], name: str) -> tuple[list[Data], str]:
    """The exact name, then wildcards from the longest, then chains without names."""
    for wanted in _names(name) if name else ():
        found = [chain for chain in chains if wanted in _match(chain).get("server_names", [])]
        if found:
            return found, wanted
    rest = [chain for chain in chains if not _match(chain).get("server_names")]
    return rest, _unless(chains, "server_names", name or "no name")


def _names(name: str) -> Iterable[str]:
    yield name
    parts = name.split(".")
    for at in range(1, len(parts)):
        yield "*." + ".".join(parts[at:])


def _by_word(chains: list[Data], field: str, words: Sequence[str]) -> tuple[list[Data], str]:
    for word in words:
        found = [chain for chain in chains if word in _listed(_match(chain).get(field))]
        if found:
            return found, word
    rest = [chain for chain in chains if not _match(chain).get(field)]
    return rest, _unless(chains, field, ", ".join(words) or "unknown")


def _listed(value: Any) -> Sequence[str]:
    return (value,) if isinstance(value, str) else value or ()


def is_address(text: str) -> bool:
    """Whether a text is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
