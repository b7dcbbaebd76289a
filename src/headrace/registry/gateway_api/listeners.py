"""Listeners of Gateways and ListenerSets become servers of Istio's model, each with its conditions.

Used by `gateways`. A listener makes a Gateway of its own with one server, so that a route can bind to just that one
(Istio's way, and its names). Listeners that cannot share a port with one before them are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from headrace.model.gateway import Server, ServerTls, ServerTlsMode
from headrace.model.gateway_api import (
    HTTP_ROUTES,
    SERVED,
    ApiGateway,
    ClientValidation,
    From,
    Listener,
    ListenerTls,
    Namespaces,
)
from headrace.model.policy import GATEWAY_GROUP
from headrace.model.resource import Labels
from headrace.registry.gateway_api.certificates import (
    BAD_CA,
    BAD_CA_KIND,
    BAD_CERTIFICATE,
    NOT_PERMITTED,
    References,
)
from headrace.registry.gateway_api.conditions import (
    ACCEPTED,
    CONFLICTED,
    PROGRAMMED,
    RESOLVED,
    Condition,
    Conditions,
    Refusal,
    Status,
)
from headrace.registry.gateway_api.world import World

TERMINATE_MODE = "gateway.istio.io/tls-terminate-mode"
"""Option of a listener's tls: MUTUAL, OPTIONAL_MUTUAL, ISTIO_SIMPLE or ISTIO_MUTUAL (Istio's)."""
NETWORK = "topology.istio.io/network"
GATEWAY_PORT = "networking.istio.io/gatewayPort"
"""Labels of a Gateway between networks: its network, and the port on which SNI names a service (15443 else)."""
LISTENER_OPTION = "gateway.istio.io/listener-protocol"
MAX_CERTIFICATES = 2
_PLAIN = ("TCP", "UDP")
_BY_NAME = ("HTTP", "HTTPS", "TLS")
_FINE = "No errors found"

Hosts = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of a listener: its server (None: none can be made), the kinds of routes that it takes, its status,
    and whether it is valid."""

    listener: Listener
    server: Server | None
    kinds: tuple[str, ...]
    status: Status
    valid: bool


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose listeners are judged: kind, namespace and labels of the document, and the Gateway that they are part of."""

    kind: str
    namespace: str
    labels: Labels
    gateway: ApiGateway

    def routes_by_sni(self, listener: Listener, options: Mapping[str, str]) -> bool:
        """Whether a listener that passes TLS through sends it to the service that the SNI names (Istio's rule for
        gateways between networks)."""
        if options.get(LISTENER_OPTION) == "auto-passthrough":
            return True
        return NETWORK in self.labels and str(listener.port) == self.labels.get(GATEWAY_PORT, "15443")


def conflicts(listeners: Iterable[tuple[object, Listener]]) -> dict[tuple[object, str], str]:
    """The reason for every listener (by owner and name) that conflicts with one before it that was not left out."""
    kept: list[Listener] = []
    found: dict[tuple[object, str], str] = {}
    for owner, listener in listeners:
        clash = next((other for other in kept if not _distinct(listener, other)), None)
        if clash is None:
            kept.append(listener)
        else:
            same = listener.protocol == clash.protocol and listener.protocol not in _PLAIN
            found[owner, listener.name] = "HostnameConflict" if same else "ProtocolConflict"
    return found


def _distinct(one: Listener, other: Listener) -> bool:
    """Whether connections tell which of two listeners they are for."""
    if one.port != other.port:
        return True
    if one.protocol in _PLAIN or other.protocol in _PLAIN:
        known = (*_PLAIN, *_BY_NAME)
        return not (one.protocol in known and other.protocol in known)
    if one.protocol in _BY_NAME and other.protocol in _BY_NAME:
        return (one.hostname or "*") != (other.hostname or "*")
    return one.protocol != other.protocol


def judge(world: World, references: References, owner: Owner, listener: Listener, conflict: str) -> Judged:
    """The server of a listener and its conditions; `conflict` is the reason why it may not share its port ('' none)."""
    kinds, known = _kinds(listener)
    conditions = Conditions()
    if conflict:
        clash = Refusal(conflict, "Listener has a conflict with another listener attached to the same Gateway")
        conditions.bad(ACCEPTED, clash)
        conditions.bad(PROGRAMMED, clash)
        conditions.good(CONFLICTED, clash.reason, clash.message)
        return _judged(listener, None, kinds, known, conditions, valid=False)
    for kind in (ACCEPTED, PROGRAMMED, RESOLVED):
        conditions.good(kind, kind, _FINE)
    conditions.found[CONFLICTED] = Condition(False, "NoConflicts", _FINE)
    tls, refusal = _server_tls(references, owner, listener)
    if refusal is not None:
        conditions.bad(RESOLVED, refusal)
        conditions.bad(PROGRAMMED, Refusal("Invalid", "Bad TLS configuration"))
        if refusal.reason in (BAD_CA, BAD_CA_KIND, NOT_PERMITTED):
            conditions.bad(ACCEPTED, Refusal("NoValidCACertificate", refusal.message))
    valid = refusal is None
    if listener.protocol not in SERVED:
        conditions.bad(ACCEPTED, Refusal("UnsupportedProtocol", _unserved(listener.protocol)))
        valid = False
    server: Server | None = Server(
        port=listener.port,
        protocol=listener.protocol,
        port_name="default",
        hosts=_hosts(world, owner.namespace, listener),
        tls=tls,
    )
    if tls is None and listener.protocol in ("HTTPS", "TLS"):
        # A place that ListenerSets fill in: of a Gateway it is valid, but there is nothing to listen with.
        server = None
        if owner.kind == "ListenerSet":
            message = f"protocol is {listener.protocol} but no TLS section is defined"
            conditions.bad(ACCEPTED, Refusal("UnsupportedProtocol", message))
            conditions.bad(PROGRAMMED, Refusal("Invalid", "Bad TLS configuration"))
            valid = False
    return _judged(listener, server, kinds, known, conditions, valid=valid)


def _judged(
    listener: Listener,
    server: Server | None,
    kinds: tuple[str, ...],
    known: bool,
    conditions: Conditions,
    *,
    valid: bool,
) -> Judged:
    if not known:
        conditions.bad(RESOLVED, Refusal("InvalidRouteKinds", "Invalid route kinds"))
    status: Status = {
        "name": listener.name,
        "supportedKinds": [{"group": GATEWAY_GROUP, "kind": kind} for kind in kinds],
        "attachedRoutes": 0,
        "conditions": conditions.data(),
    }
    return Judged(listener, server, kinds, status, valid)


def _kinds(listener: Listener) -> tuple[tuple[str, ...], bool]:
    """The kinds of routes that a listener takes, and whether all that it asks for are among those it can have."""
    can: tuple[str, ...] = ()
    if listener.protocol in ("HTTP", "HTTPS"):
        can = HTTP_ROUTES
    elif listener.protocol == "TCP":
        can = ("TCPRoute",)
    elif listener.protocol == "TLS":
        ends = listener.tls is not None and listener.tls.terminate
        can = ("TLSRoute", "TCPRoute") if ends else ("TLSRoute",)
    if not listener.kinds:
        return can, True
    wanted = [kind for group, kind in listener.kinds if group == GATEWAY_GROUP]
    taken = tuple(kind for kind in can if kind in wanted)
    return taken, len(taken) == len(listener.kinds)


def _unserved(protocol: str) -> str:
    if protocol == "HBONE":
        return 'protocol "HBONE" is only supported for waypoint proxies'
    if protocol.upper() in SERVED:
        return f'protocol "{protocol}" is unsupported. hint: "{protocol.upper()}" (uppercase) may be supported'
    return f'protocol "{protocol}" is unsupported'


def allowed_namespaces(world: World, own: str, rule: Namespaces) -> list[str]:
    """The namespaces that a rule names, sorted; `*` is every one."""
    if rule.source is From.ALL:
        return ["*"]
    if rule.source is From.SELECTOR:
        return world.selected(rule.selector)
    return [own] if rule.source is From.SAME else []


def _hosts(world: World, own: str, listener: Listener) -> Hosts:
    name = listener.hostname or "*"
    found = tuple((namespace, name) for namespace in allowed_namespaces(world, own, listener.namespaces))
    return found or (("~", name),)


def _server_tls(references: References, owner: Owner, listener: Listener) -> tuple[ServerTls | None, Refusal | None]:
    """How a listener's connections are secured, and what is wrong with the certificates that it names."""
    tls = listener.tls
    if tls is None:
        return None, None
    options = dict(tls.options)
    ciphers = tls.ciphers
    if not tls.terminate:
        auto = owner.routes_by_sni(listener, options)
        mode = ServerTlsMode.AUTO_PASSTHROUGH if auto else ServerTlsMode.PASSTHROUGH
        return ServerTls(mode, cipher_suites=ciphers), None
    wanted = options.get(TERMINATE_MODE, "")
    if wanted == "ISTIO_MUTUAL":
        return ServerTls(ServerTlsMode.ISTIO_MUTUAL), None
    if wanted == "ISTIO_SIMPLE":
        return ServerTls(ServerTlsMode.SIMPLE, credentials=("builtin://",)), None
    mode = ServerTlsMode(wanted) if wanted in ("MUTUAL", "OPTIONAL_MUTUAL") else ServerTlsMode.SIMPLE
    credentials, refusal = _certificates(references, owner, tls)
    if refusal is not None:
        return ServerTls(mode), refusal
    validation = owner.gateway.tls.validation(listener.port)
    if validation is None:
        return ServerTls(mode, credentials=credentials, cipher_suites=ciphers), None
    return _validated(
        references, owner, ServerTls(mode, credentials=credentials, cipher_suites=ciphers), validation, wanted
    )


def _certificates(references: References, owner: Owner, tls: ListenerTls) -> tuple[tuple[str, ...], Refusal | None]:
    """The credentials of a listener's certificates; refused where none of them is good."""
    if len(tls.certificates) > MAX_CERTIFICATES:
        message = f"TLS mode can only support up to {MAX_CERTIFICATES} server certificates"
        return (), Refusal(BAD_CERTIFICATE, message)
    found = [references.certificate(ref, (owner.kind, owner.namespace)) for ref in tls.certificates]
    good = tuple(item for item in found if isinstance(item, str))
    if good:
        return good, None
    refusal: Refusal | None = None
    for item in found:
        if isinstance(item, Refusal):
            refusal = item if refusal is None else refusal.and_then(item)
    return (), refusal or Refusal(BAD_CERTIFICATE, "no certificate is named")


def _validated(
    references: References, owner: Owner, tls: ServerTls, rule: ClientValidation, wanted: str
) -> tuple[ServerTls, Refusal | None]:
    """The settings with what clients' certificates must satisfy."""
    if len(rule.authorities) > 1:
        return tls, Refusal(BAD_CA, "only one caCertificateRef is supported")
    authority = references.authority(rule.authorities[0], (owner.kind, owner.namespace))
    if isinstance(authority, Refusal):
        return tls, authority
    lax = rule.insecure and not wanted
    mode = ServerTlsMode.OPTIONAL_MUTUAL if (lax or wanted == "OPTIONAL_MUTUAL") else ServerTlsMode.MUTUAL
    settled = ServerTls(
        mode=mode,
        credentials=tls.credentials,
        ca_credential=f"{authority}-cacert",
        insecure_skip_verify=lax,
        cipher_suites=tls.cipher_suites,
    )
    return settled, None


def statuses(judged: Sequence[Judged], attached: dict[str, int]) -> list[Status]:
    """The listeners' part of a status, with the number of routes at each."""
    return [{**item.status, "attachedRoutes": attached.get(item.listener.name, 0)} for item in judged]
