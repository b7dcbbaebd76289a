"""Protocol names of Gateway and ServiceEntry ports, as Istio reads them: any case, a closed list."""

from __future__ import annotations

from headrace.model.service import Protocol

_BY_NAME = {
    "tcp": Protocol.TCP,
    "udp": Protocol.UDP,
    "grpc": Protocol.GRPC,
    "grpc-web": Protocol.GRPC_WEB,
    "http": Protocol.HTTP,
    "http_proxy": Protocol.HTTP,
    "http2": Protocol.HTTP2,
    "https": Protocol.HTTPS,
    "tls": Protocol.TLS,
    "mongo": Protocol.MONGO,
    "redis": Protocol.REDIS,
    "mysql": Protocol.MYSQL,
}
PROTOCOL_REMEDY = "Use HTTP, HTTP2, GRPC, GRPC-Web, HTTPS, TLS, TCP, Mongo, Redis or MySQL."


def parse_protocol(name: str) -> Protocol | None:
    """The protocol of that name; None where there is none."""
    return _BY_NAME.get(name.lower())


def is_tls(protocol: Protocol) -> bool:
    """Whether the port carries TLS that the client begins."""
    return protocol in (Protocol.HTTPS, Protocol.TLS)
