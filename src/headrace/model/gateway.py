"""The mesh's doors: what a Gateway says. Field meanings are those of istio.networking.v1.Gateway.

Made by `config.kinds.gateway`, read by `envoy.translate.gateways`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from headrace.model.resource import Metadata
from headrace.model.traffic import Pairs


class ServerTlsMode(StrEnum):
    """ServerTLSSettings.TLSmode."""

    PASSTHROUGH = "PASSTHROUGH"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    AUTO_PASSTHROUGH = "AUTO_PASSTHROUGH"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"
    OPTIONAL_MUTUAL = "OPTIONAL_MUTUAL"


@dataclass(frozen=True, slots=True)
class ServerTls:
    """ServerTLSSettings; `credential_name` names a Secret in the gateway proxy's namespace."""

    mode: ServerTlsMode = ServerTlsMode.PASSTHROUGH
    https_redirect: bool = False
    server_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    credential_name: str = ""
    subject_alt_names: tuple[str, ...] = ()
    verify_certificate_spki: tuple[str, ...] = ()
    verify_certificate_hash: tuple[str, ...] = ()
    min_protocol_version: str = ""
    max_protocol_version: str = ""
    cipher_suites: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Server:
    """Server: a port that the gateway listens on. `hosts` are (namespace part or '*', DNS name)."""

    port: int
    protocol: str
    port_name: str
    hosts: tuple[tuple[str, str], ...]
    tls: ServerTls | None = None
    bind: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Gateway:
    """A Gateway: servers on the proxies whose labels `selector` selects (empty: all gateway proxies)."""

    meta: Metadata
    selector: Pairs
    servers: tuple[Server, ...]
