"""One request or connection as a proxy sees it. Made by `app.trace`, changed by routes on its way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Data = Mapping[str, Any]
"""A message of Envoy's configuration as protobuf JSON with snake_case names."""


class Tls(StrEnum):
    """What the connection is wrapped in when it reaches the proxy: nothing, TLS without a client certificate, or TLS
    with a certificate of the mesh."""

    PLAIN = "plaintext"
    SIMPLE = "tls"
    MESH = "mtls"


class Content(StrEnum):
    """What is spoken inside."""

    HTTP1 = "http"
    HTTP2 = "http2"
    TCP = "tcp"


@dataclass(frozen=True, slots=True)
class Request:
    """`address` and `port` are where the client meant to connect. `host` is the authority, `headers` have lower-case
    names. `sni` and `alpn` are those of the TLS hello. `identity` is the SPIFFE URI of the client's certificate ('':
    none), `claims` those of a valid token (None: no token)."""

    address: str
    port: int
    host: str = ""
    path: str = "/"
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    content: Content = Content.HTTP1
    tls: Tls = Tls.PLAIN
    sni: str = ""
    alpn: tuple[str, ...] = ()
    source: str = ""
    identity: str = ""
    claims: Mapping[str, Any] | None = None
    inbound: bool = False
    direct: bool = False
    scheme: str = "http"

    def header(self, name: str) -> str | None:
        """A header's value, several of one name joined by commas; pseudo headers too; None where it is not there."""
        pseudo = {
            ":method": self.method,
            ":path": self.path,
            ":authority": self.host,
            "host": self.host,
            ":scheme": self.scheme,
        }
        low = name.lower()
        if low in pseudo:
            return pseudo[low]
        found = [value for key, value in self.headers if key == low]
        return ",".join(found) if found else None

    @property
    def is_http(self) -> bool:
        return self.content is not Content.TCP


@dataclass(frozen=True, slots=True)
class Step:
    """One decision: `what` (listener, filter chain, policy, route, cluster, ...), the `name` that was taken, `why`.
    `document` is Envoy's word for where it comes from: a path of Istio's (`/apis/.../virtual-service/chat`), or the
    name of an RBAC policy."""

    what: str
    name: str
    why: str = ""
    document: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the request ends here. `code` is one word for programs; `status` what an HTTP client sees (0: the connection
    is closed); `policy` names the RBAC policy where one decided."""

    code: str
    reason: str
    status: int = 0
    policy: str = ""


@dataclass(frozen=True, slots=True)
class Share:
    """One cluster that the request may go to, with its share in percent, and the request as it leaves for it."""

    cluster: str
    percent: float
    request: Request


@dataclass(frozen=True, slots=True)
class Hop:
    """What one proxy does: the steps in order, then clusters, or an answer of its own (`answer`), or a refusal."""

    steps: tuple[Step, ...]
    shares: tuple[Share, ...] = ()
    route: Data = field(default_factory=dict)
    answer: str = ""
    refusal: Refusal | None = None
