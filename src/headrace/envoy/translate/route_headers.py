"""What happens to headers on the way: Headers as Envoy's lists of additions and removals.

Called by `route_action`. Setting Host (or `:authority`) is no header operation but a rewrite of the host.
"""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import base_pb2

from headrace.model.traffic import Headers, Pairs

_OVERWRITE = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_APPEND = base_pb2.HeaderValueOption.APPEND_IF_EXISTS_OR_ADD


def apply_headers(found: Any, headers: Headers) -> None:
    """Add the operations to a Route or a weighted cluster, which have the same four fields."""
    found.request_headers_to_add.extend(_options(headers.request.set, _OVERWRITE))
    found.request_headers_to_add.extend(_options(headers.request.add, _APPEND))
    found.request_headers_to_remove.extend(name for name in headers.request.remove if not _is_internal(name))
    found.response_headers_to_add.extend(_options(headers.response.set, _OVERWRITE))
    found.response_headers_to_add.extend(_options(headers.response.add, _APPEND))
    found.response_headers_to_remove.extend(name for name in headers.response.remove if not _is_internal(name))


def host_written(headers: Headers) -> str:
    """The host that the request headers set ('' where they do not); `set` wins over `add`."""
    for pairs in (headers.request.set, headers.request.add):
        for name, value in pairs:
            if name.lower() in ("host", ":authority"):
                return value
    return ""


def _options(pairs: Pairs, action: int) -> list[Any]:
    return [
        base_pb2.HeaderValueOption(header=base_pb2.HeaderValue(key=name, value=value), append_action=action)
        for name, value in sorted(pairs)
        if not _is_internal(name)
    ]


def _is_internal(name: str) -> bool:
    """Names that Envoy keeps to itself."""
    return name.startswith(":") or name.lower() == "host"
