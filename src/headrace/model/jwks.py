"""Where a key set is fetched: the parts of a `jwksUri`.

Read by `config` (is it one), `envoy.guards` (whose cluster fetches it) and `envoy.translate.jwt_authn`.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class KeyUri:
    """An http or https URI; `host` in lower case, without brackets."""

    tls: bool
    host: str
    port: int


def split_uri(uri: str) -> KeyUri | None:
    """The parts of a URI; None where it is not http or https, or names no host or a wrong port."""
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme.lower() not in _PORTS or not parts.hostname or any(char <= " " for char in uri):
        return None
    return KeyUri(parts.scheme.lower() == "https", parts.hostname, port or _PORTS[parts.scheme.lower()])
