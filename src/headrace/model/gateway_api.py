"""The Kubernetes Gateway API's documents, as written: gateways, routes, and what lets one namespace refer to another.

Made by `config.kinds.gateway_api`, read by `registry.gateway_api`, which makes of them what Istio's own documents are
lowered to. Field meanings are those of gateway.networking.k8s.io/v1. '' and 0 mean "not written"; times in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from headrace.model.policy import GATEWAY_GROUP
from headrace.model.resource import Labels, Metadata
from headrace.model.traffic import Headers, HttpMatch, HttpRoute, Pairs

CONTROLLER = "istio.io/gateway-controller"
"""The controller that Istio's own GatewayClass names; documents written for Istio work as they are."""
REMOTE_CONTROLLER = "istio.io/unmanaged-gateway"
"""The controller of gateways that somebody else runs."""
CLASS = "istio"
REMOTE_CLASS = "istio-remote"
BUILTIN_CLASSES = {CLASS: CONTROLLER, REMOTE_CLASS: REMOTE_CONTROLLER}
"""Classes that exist without a GatewayClass document."""
SERVED = ("HTTP", "HTTPS", "TLS", "TCP")
"""Protocols of listeners that a gateway proxy can serve."""
HTTP_ROUTES = ("HTTPRoute", "GRPCRoute")
"""Kinds of routes whose rules are about requests; those of the others are about connections."""
ROUTES = (*HTTP_ROUTES, "TCPRoute", "TLSRoute")
_NO_HEADERS = Headers()
_NO_ACTION = HttpRoute()


@dataclass(frozen=True, slots=True, order=True)
class ObjectRef:
    """A reference to any object; `group` '' is the core one, `namespace` '' that of the document."""

    group: str
    kind: str
    name: str
    namespace: str = ""


@dataclass(frozen=True, slots=True, order=True)
class ParentRef:
    """What a route or ListenerSet attaches to: a Gateway, one listener of it (`section`), a port, a Service, ..."""

    group: str
    kind: str
    name: str
    namespace: str = ""
    section: str = ""
    port: int = 0

    def owner(self, namespace: str) -> tuple[str, str, str]:
        """Kind, namespace and name of what is meant by a document of `namespace`."""
        return (self.kind, self.namespace or namespace, self.name)


@dataclass(frozen=True, slots=True)
class BackendRef:
    """Where requests go. `headers`: what its own filters do to them; `unusable`: the type of a filter that nothing
    here can do."""

    ref: ObjectRef
    port: int = 0
    weight: int = 1
    headers: Headers = _NO_HEADERS
    unusable: str = ""


@dataclass(frozen=True, slots=True)
class MirrorRef:
    """RequestMirror: `percent` of the requests are copied to a backend."""

    backend: BackendRef
    percent: float = 100.0


@dataclass(frozen=True, slots=True)
class RouteRule:
    """A rule of any kind of route. `action` holds everything that needs no other document (filters, timeouts, retries),
    without matches and destinations; `unusable`: the type of a filter that nothing here can do."""

    backends: tuple[BackendRef, ...] = ()
    matches: tuple[HttpMatch, ...] = ()
    action: HttpRoute = _NO_ACTION
    mirrors: tuple[MirrorRef, ...] = ()
    unusable: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """An HTTPRoute, GRPCRoute, TCPRoute or TLSRoute (`meta.key` says which)."""

    meta: Metadata
    parents: tuple[ParentRef, ...]
    hostnames: tuple[str, ...]
    rules: tuple[RouteRule, ...]

    @property
    def kind(self) -> str:
        return self.meta.key.short_kind


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """meta/v1 LabelSelector: `expressions` are (key, In | NotIn | Exists | DoesNotExist, values); another operator
    selects nothing."""

    labels: Pairs = ()
    expressions: tuple[tuple[str, str, tuple[str, ...]], ...] = ()

    def matches(self, labels: Labels) -> bool:
        """Whether everything that is asked for holds; nothing asked for selects all."""
        return all(labels.get(key) == value for key, value in self.labels) and all(
            _holds(operator, key in labels, labels.get(key, "") in values) for key, operator, values in self.expressions
        )


def _holds(operator: str, there: bool, listed: bool) -> bool:
    if operator == "Exists":
        return there
    if operator == "DoesNotExist":
        return not there
    if operator == "NotIn":
        return not (there and listed)
    return operator == "In" and there and listed


class From(StrEnum):
    """Which namespaces may attach routes or ListenerSets."""

    ALL = "All"
    SAME = "Same"
    SELECTOR = "Selector"
    NONE = "None"


@dataclass(frozen=True, slots=True)
class Namespaces:
    """RouteNamespaces and ListenerNamespaces."""

    source: From = From.SAME
    selector: LabelSelector | None = None


@dataclass(frozen=True, slots=True)
class ListenerTls:
    """ListenerTLSConfig: `terminate` or pass through; `options` are Istio's extensions by name, and
    `ciphers` what one of them says."""

    terminate: bool = True
    certificates: tuple[ObjectRef, ...] = ()
    options: Pairs = ()
    ciphers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listener:
    """A Listener of a Gateway or ListenerSet. `kinds` are (group, kind) of the routes that it takes; none: all that its
    protocol can have."""

    name: str
    port: int
    protocol: str
    hostname: str = ""
    tls: ListenerTls | None = None
    namespaces: Namespaces = Namespaces()
    kinds: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ClientValidation:
    """FrontendTLSValidation: the CAs of clients' certificates; `insecure`: AllowInsecureFallback."""

    authorities: tuple[ObjectRef, ...]
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class GatewayTls:
    """GatewayTLSConfig. `per_port` overrides `default` for a port, also with None (no validation there)."""

    default: ClientValidation | None = None
    per_port: tuple[tuple[int, ClientValidation | None], ...] = ()
    client_certificate: ObjectRef | None = None
    frontend: bool = False

    def validation(self, port: int) -> ClientValidation | None:
        """How clients of a port are validated."""
        return dict(self.per_port).get(port, self.default)

    @property
    def insecure(self) -> bool:
        """Whether clients of some port may come without a valid certificate."""
        found = (self.default, *(rules for _, rules in self.per_port))
        return any(rules is not None and rules.insecure for rules in found)


@dataclass(frozen=True, slots=True, eq=False)
class ApiGateway:
    """A gateway.networking.k8s.io Gateway. `addresses` are (type, value); `labels` those of its proxies where
    `infrastructure` writes them (None: it does not)."""

    meta: Metadata
    class_name: str
    listeners: tuple[Listener, ...]
    addresses: tuple[tuple[str, str], ...] = ()
    labels: Pairs | None = None
    parameters: ObjectRef | None = None
    allowed_listeners: Namespaces = Namespaces(From.NONE)
    tls: GatewayTls = GatewayTls()

    @property
    def managed(self) -> bool:
        """Whether it gets a proxy of its own: it names no address, or one IP address (Istio's rule)."""
        return not self.addresses or (len(self.addresses) == 1 and self.addresses[0][0] == "IPAddress")


@dataclass(frozen=True, slots=True, eq=False)
class ListenerSet:
    """A ListenerSet: further listeners of a Gateway, written by another team."""

    meta: Metadata
    parent: ParentRef
    listeners: tuple[Listener, ...]


@dataclass(frozen=True, slots=True, eq=False)
class GatewayClass:
    """A GatewayClass: whose controller its Gateways are for."""

    meta: Metadata
    controller: str


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceGrant:
    """A ReferenceGrant: `sources` (group, kind, namespace) may refer to `targets` (group, kind, name; '' any name) of
    the grant's own namespace."""

    meta: Metadata
    sources: tuple[tuple[str, str, str], ...]
    targets: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True, order=True)
class PolicyTargetRef:
    """LocalPolicyTargetReferenceWithSectionName; `section` is the name of a port."""

    group: str
    kind: str
    name: str
    section: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class BackendTlsPolicy:
    """A BackendTLSPolicy: TLS towards `targets`, with `hostname` as SNI and, where no SANs are written, as the
    name that the certificate must have. `authorities` sign that certificate; none: `well_known` (System)."""

    meta: Metadata
    targets: tuple[PolicyTargetRef, ...]
    hostname: str
    authorities: tuple[ObjectRef, ...] = ()
    well_known: str = ""
    subject_alt_names: tuple[str, ...] = ()


def api_kind(name: str) -> str:
    """A kind of the Gateway API as it stands in a ResourceKey."""
    return f"{GATEWAY_GROUP}/{name}"
