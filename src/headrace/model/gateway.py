"""The mesh's doors: what a Gateway says. Field meanings are those of istio.networking.v1.Gateway.

Made by `config.kinds.gateway`, read by `envoy.translate.gateways`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from headrace.model.policy import GATEWAY_GROUP
from headrace.model.resource import Labels, Metadata, selects
from headrace.model.traffic import Pairs


class ServerTlsMode(StrEnum):
    """ServerTLSSettings.TLSmode."""

    PASSTHROUGH = "PASSTHROUGH"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    AUTO_PASSTHROUGH = "AUTO_PASSTHROUGH"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"
    OPTIONAL_MUTUAL = "OPTIONAL_MUTUAL"


PASSING = (ServerTlsMode.PASSTHROUGH, ServerTlsMode.AUTO_PASSTHROUGH)
"""Modes in which the gateway looks at the SNI only."""
UNIX = "unix://"
"""What stands before the path of a socket that a server binds."""
CA_SUFFIX = "-cacert"
"""What Istio appends to a credential's name for its CA."""
_REFERENCE_SCHEMES = ("kubernetes-gateway://", "configmap://")
"""What stands before the credentials of Gateway API documents, which name their own namespaces: who may use which is
settled when these documents are converted."""
_SECRET_SCHEMES = ("kubernetes://", "sds://")
"""What may stand before a credential that is a Secret (`sds://` without a provider of secrets means one, too)."""


def secret_name(credential: str, namespace: str) -> str:
    """The Secret of `namespace` that a credential names (`x`, `kubernetes://x`, `NAMESPACE/x`); empty where it names
    one of another namespace, which a proxy of this one never gets, or no Secret at all. A credential of a Gateway API
    document stays as it is (`is_reference`)."""
    if is_reference(credential):
        return credential
    for scheme in _SECRET_SCHEMES:
        credential = credential.removeprefix(scheme)
    owner, slash, name = credential.partition("/")
    if not slash:
        return credential
    return name if owner == namespace and "/" not in name else ""


def is_reference(credential: str) -> bool:
    """Whether a credential is one of the Gateway API's documents."""
    return credential.startswith(_REFERENCE_SCHEMES)


@dataclass(frozen=True, slots=True)
class ServerTls:
    """ServerTLSSettings. Certificates come from the Secrets `credentials` (credentialName or credentialNames, of the
    gateway proxy's namespace), else from the files `certificates` (certificate, private key). `ca_credential` is
    caCertCredentialName; without it the first credential has the CA of the clients, or the file `ca_certificates`."""

    mode: ServerTlsMode = ServerTlsMode.PASSTHROUGH
    https_redirect: bool = False
    credentials: tuple[str, ...] = ()
    certificates: tuple[tuple[str, str], ...] = ()
    ca_credential: str = ""
    ca_certificates: str = ""
    ca_crl: str = ""
    insecure_skip_verify: bool = False
    subject_alt_names: tuple[str, ...] = ()
    verify_certificate_spki: tuple[str, ...] = ()
    verify_certificate_hash: tuple[str, ...] = ()
    min_protocol_version: str = ""
    max_protocol_version: str = ""
    cipher_suites: tuple[str, ...] = ()
    ecdh_curves: tuple[str, ...] = ()

    @property
    def terminates(self) -> bool:
        """Whether TLS ends here, rather than at whom its SNI names."""
        return self.mode not in PASSING

    @property
    def ca_candidates(self) -> tuple[str, ...]:
        """The credentials that may have the CA of caCertCredentialName, the first one that exists counting (Istio)."""
        name = self.ca_credential
        return tuple(dict.fromkeys((name, name.removesuffix(CA_SUFFIX)))) if name else ()

    @property
    def verifies_by_own_roots(self) -> bool:
        """Whether clients may show a certificate that another CA than the mesh's has signed."""
        return self.mode in (ServerTlsMode.MUTUAL, ServerTlsMode.OPTIONAL_MUTUAL)


@dataclass(frozen=True, slots=True)
class Server:
    """Server: a port that the gateway listens on. `hosts` are (namespace part or '*', DNS name); `bind` is an address,
    `unix:///path` or empty (the proxy's own)."""

    port: int
    protocol: str
    port_name: str
    hosts: tuple[tuple[str, str], ...]
    tls: ServerTls | None = None
    bind: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class GatewayProxy:
    """The proxy that a Gateway of the Gateway API gets for itself: a workload with these labels (sorted)."""

    namespace: str
    name: str
    service_account: str
    labels: Pairs


@dataclass(frozen=True, slots=True, eq=False)
class Gateway:
    """A Gateway: servers on the proxies whose labels `selector` selects (empty: all gateway proxies). With `services`
    it is instead for the gateway proxies behind these Services (hosts) of its namespace, and its ports are those of the
    Services: the proxy listens where they lead to. With `proxy` (it was a Gateway of the Gateway API) it is for the
    proxies of that namespace which `selector` selects, too. `owner`: the namespace of proxies and Services, where it is
    not the document's own."""

    meta: Metadata
    selector: Pairs
    servers: tuple[Server, ...]
    services: tuple[str, ...] = ()
    proxy: GatewayProxy | None = None
    owner: str = ""

    @property
    def judged(self) -> bool:
        """Whether it was a document of the Gateway API, whose references to other namespaces were judged."""
        return self.meta.key.kind.startswith(f"{GATEWAY_GROUP}/")

    @property
    def before(self) -> frozenset[tuple[str, str]]:
        """The Services (namespace, host) before its proxies."""
        return frozenset((self.owner or self.meta.namespace, host) for host in self.services)

    def takes(self, namespace: str, labels: Labels, services: Collection[tuple[str, str]]) -> bool:
        """Whether it is for a gateway proxy of `namespace` with these labels, behind these Services."""
        if not self.before.isdisjoint(services):
            return True
        if self.proxy is not None:
            return namespace == self.proxy.namespace and selects(dict(self.selector), labels)
        return not self.services and selects(dict(self.selector), labels)
