"""One request from its caller to every place where it may end, as rows that people read.

Called by `headrace trace`. Each proxy on the way is translated as it would be sent, and `envoy.trace` decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from headrace.app import offline
from headrace.app.offline import Offline, OfflineError, ProxyName
from headrace.app.trace.origins import Origins, described
from headrace.app.trace.places import OUTSIDE, USUAL_PORTS, Target, address_of, caller, gateways, port_of, service_of
from headrace.app.trace.remedies import hidden, remedy_for
from headrace.envoy.scopes import Scopes, view_of
from headrace.envoy.trace.destinations import Endpoint, Wrap, place_of
from headrace.envoy.trace.proxy import Resources, follow
from headrace.envoy.trace.request import Content, Hop, Refusal, Request, Share, Step, Tls
from headrace.envoy.translate import Translator
from headrace.envoy.view import ProxyView
from headrace.model.authorization import Action
from headrace.model.proxy import Proxy, ProxyKind
from headrace.model.service import Service
from headrace.registry.policies import PolicyTable

_STRANGER = "198.51.100.7"
"""Address of a client outside the mesh (TEST-NET-2: nobody has it)."""
_ENCRYPTED = ("https", "tls")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: `source` as `--from` says it, `target`, and the request's own words. `claims` are those of a valid
    token (None: it sends none)."""

    source: str
    target: Target
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    port: int | None = None
    sni: str = ""
    claims: Mapping[str, Any] | None = None


class Mesh:
    """The documents with what has been translated of them for this question."""

    def __init__(self, loaded: Offline) -> None:
        self.snapshot = loaded.snapshot
        self.origins = Origins(loaded.snapshot)
        self.gateways = gateways(loaded.snapshot)
        self._scopes, self._translator = Scopes(), Translator()

    def proxy(self, name: ProxyName) -> tuple[Proxy, ProxyView, Resources]:
        """A proxy, what it sees, and what it would be sent."""
        proxy = offline.find_proxy(self.snapshot, name)
        view = view_of(self.snapshot, proxy, self._scopes)
        return proxy, view, offline.as_data(self._translator.resources(view))

    def proxy_of(self, endpoint: Endpoint) -> ProxyName | None:
        """The proxy that an endpoint is or that stands before it, where a document describes its workload."""
        workload, _, rest = endpoint.workload.partition(";")
        namespace = rest.partition(";")[0]
        gateway = ProxyName(ProxyKind.GATEWAY, namespace, workload)
        if gateway in self.gateways:
            return gateway
        for meta in (
            *(item.meta for item in self.snapshot.static_workloads if item.proxied),
            *(item.meta for item in self.snapshot.workloads),
        ):
            if (meta.namespace, meta.name) == (namespace, workload):
                return ProxyName(ProxyKind.SIDECAR, namespace, workload)
        return None

    def is_bare(self, name: ProxyName) -> bool:
        """Whether a workload is described to have no proxy."""
        return name.kind is ProxyKind.SIDECAR and any(
            not item.proxied and (item.meta.namespace, item.meta.name) == (name.namespace, name.name)
            for item in self.snapshot.static_workloads
        )

    def at_address(self, request: Request) -> list[Endpoint]:
        """The workload that has the address which a connection is for, as a plain endpoint."""
        return [
            Endpoint(request.address, request.port, "UNKNOWN", 0, 1, f"{item.meta.name};{item.meta.namespace}", Wrap())
            for item in self.snapshot.static_workloads
            if item.address == request.address
        ][:1]


def walk(loaded: Offline, question: Question) -> dict[str, Any]:
    """The whole way: `steps` at the caller's proxy, `destinations` with shares, endpoints and what the callee's proxy
    does, or where it is refused. OfflineError where the question names nothing."""
    mesh = Mesh(loaded)
    if question.source == OUTSIDE:
        return _from_outside(mesh, question)
    name = caller(mesh.snapshot, question.source)
    if mesh.is_bare(name):
        return _from_bare(mesh, question, name)
    return _from_proxy(mesh, question, name)


def _from_outside(mesh: Mesh, question: Question) -> dict[str, Any]:
    """The gateway that takes the request; where several are, the first that does not refuse it."""
    if not mesh.gateways:
        raise OfflineError("the documents describe no gateway: add a Gateway, or ask --from a workload")
    answers = [_from_proxy(mesh, question, name) for name in mesh.gateways]
    return next((answer for answer in answers if "refused" not in answer), answers[0])


def _from_bare(mesh: Mesh, question: Question, name: ProxyName) -> dict[str, Any]:
    """From a workload without a proxy: no routing, a connection as plain as it is written."""
    proxy = offline.find_proxy(mesh.snapshot, name)
    service = service_of(mesh.snapshot, question.target.host, name.namespace)
    request = _request(mesh, question, proxy, service)
    step = {"what": "no proxy", "name": f"{name.namespace}/{name.name}", "why": "no sidecar stands before it"}
    answer = _asked(question, proxy, request) | {"proxy": "none", "steps": [step]}
    known = mesh.snapshot.endpoints.get((service.namespace, service.host), ()) if service is not None else ()
    found = [
        Endpoint(item.address, item.port, item.health.value, 0, 1, f"{item.workload};{item.namespace}", Wrap())
        for item in known
        if item.service_port == request.port
    ]
    found = found or mesh.at_address(request)
    callees = [_callee(mesh, item, request, proxy) for item in _one_each(found)]
    place = service.host if service is not None else request.address
    row = {
        "cluster": f"{place}:{request.port}",
        "share": "100%",
        "endpoints": [_endpoint_words(item) for item in found],
    }
    return _settled(answer | {"destinations": [_or_refused(row | {"callees": callees})]})


def _from_proxy(mesh: Mesh, question: Question, name: ProxyName) -> dict[str, Any]:
    proxy, view, resources = mesh.proxy(name)
    service = service_of(mesh.snapshot, question.target.host, proxy.namespace)
    at_gateway = proxy.kind is ProxyKind.GATEWAY
    request = _request(mesh, question, proxy, service)
    hop = follow(resources, request)
    answer = _asked(question, proxy, request) | {
        "proxy": f"{name.kind.value}/{name.namespace}/{name.name}",
        "steps": [_step(mesh, step, view, request, hop) for step in hop.steps],
    }
    if hop.answer:
        answer["answered"] = hop.answer
    if hop.refusal is not None:
        answer["refused"] = _refused(mesh, hop.refusal, proxy, request)
        if not at_gateway and hop.refusal.code == "unknown-host":
            answer["refused"] |= hidden(mesh.snapshot, service, view.scope)
    answer["destinations"] = [_destination(mesh, share, resources, proxy) for share in hop.shares]
    return _settled(answer)


def _asked(question: Question, proxy: Proxy, request: Request) -> dict[str, Any]:
    """The question as it was understood."""
    outside = proxy.kind is ProxyKind.GATEWAY
    return {
        "from": OUTSIDE if outside else f"{proxy.kind.value}/{proxy.namespace}/{proxy.workload}",
        "to": f"{question.target.scheme}://{request.host or request.address}{request.path if request.is_http else ''}",
        "connection": f"{request.address}:{request.port}",
    }


def _settled(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer, which is a refusal where every destination is."""
    refused = [item["refused"] for item in answer["destinations"] if "refused" in item]
    if refused and len(refused) == len(answer["destinations"]):
        answer["refused"] = refused[0]
    return answer


def _or_refused(row: dict[str, Any]) -> dict[str, Any]:
    """A destination, which is refused where every callee refuses."""
    refused = [item["refused"] for item in row["callees"] if "refused" in item]
    if refused and len(refused) == len(row["callees"]):
        row["refused"] = refused[0]
    return row


def _request(mesh: Mesh, question: Question, proxy: Proxy, service: Service | None) -> Request:
    target = question.target
    at_gateway = proxy.kind is ProxyKind.GATEWAY
    port = question.port or target.port or USUAL_PORTS.get(target.scheme, 0) if at_gateway else 0
    port = port or port_of(target, service, question.port)
    encrypted = target.scheme in _ENCRYPTED
    content = {"grpc": Content.HTTP2, "tcp": Content.TCP, "tls": Content.TCP}.get(target.scheme, Content.HTTP1)
    usual = USUAL_PORTS.get("https" if encrypted else "http") == port
    alpn = () if content is Content.TCP or not encrypted else ("h2", "http/1.1")
    own = proxy.addresses[0] if proxy.addresses else ""
    return Request(
        address=own if at_gateway else address_of(mesh.snapshot, target.host, service),
        port=dict(proxy.port_map).get(port, port) if at_gateway else port,
        host=target.host if usual else f"{target.host}:{port}",
        path=target.path,
        method=question.method,
        headers=_with_defaults(question, content, target),
        content=content,
        tls=Tls.SIMPLE if encrypted else Tls.PLAIN,
        sni=question.sni or (target.host if encrypted else ""),
        alpn=alpn,
        source=_STRANGER if at_gateway else own,
        claims=question.claims,
        direct=at_gateway,
        scheme="https" if encrypted else "http",
    )


def _with_defaults(question: Question, content: Content, target: Target) -> tuple[tuple[str, str], ...]:
    headers = tuple((name.lower(), value) for name, value in question.headers)
    if target.scheme == "grpc" and content is Content.HTTP2 and not any(name == "content-type" for name, _ in headers):
        headers += (("content-type", "application/grpc"),)
    return headers


def _step(mesh: Mesh, step: Step, view: ProxyView, request: Request, hop: Hop) -> dict[str, str]:
    row = {"what": step.what, "name": step.name, "why": step.why}
    origins = mesh.origins
    place = origins.of_policy(step.document) or origins.of_path(step.document)
    if step.what == "route" and hop.route:
        place = origins.of_route(hop.route, view, request.port) or place
    if place:
        row["document"] = place
    return row


def _refused(mesh: Mesh, refusal: Refusal, proxy: Proxy, request: Request) -> dict[str, Any]:
    where = f"{proxy.kind.value}/{proxy.namespace}/{proxy.workload}"
    row: dict[str, Any] = {"at": where, "code": refusal.code, "reason": refusal.reason}
    if refusal.status:
        row["status"] = refusal.status
    policy = mesh.origins.of_policy(refusal.policy)
    if request.inbound and refusal.code in ("tls-required", "no-filter-chain") and request.tls is Tls.PLAIN:
        found = mesh.origins.of_mtls(proxy.namespace, proxy.labels, request.port)
        if found:
            policy = f"{found} demands mutual TLS (STRICT), and this connection is plaintext"
            row["code"] = "mutual-tls-required"
            refusal = replace(refusal, code="tls-required")
    if refusal.code == "not-allowed":
        policy = ", ".join(_allow_policies(mesh, proxy))
    if policy:
        row["policy"] = policy
    remedy = remedy_for(refusal)
    if remedy:
        row["remedy"] = remedy
    return row


def _allow_policies(mesh: Mesh, proxy: Proxy) -> Iterator[str]:
    table = PolicyTable(mesh.snapshot.authorization_policies, mesh.snapshot.mesh.root_namespace)
    for item in table.of(proxy.namespace, proxy.labels):
        if item.action is Action.ALLOW and not item.dry_run:
            yield described(item.meta)


def _destination(mesh: Mesh, share: Share, resources: Resources, proxy: Proxy) -> dict[str, Any]:
    """One cluster: its endpoints, and what stands before the first of each workload."""
    row: dict[str, Any] = {"cluster": share.cluster, "share": f"{share.percent:g}%"}
    place = place_of(resources, share.cluster)
    if place is None:
        refusal = Refusal("no-cluster", f"this proxy has no cluster {share.cluster!r}", 503)
        return row | {"refused": _refused(mesh, refusal, proxy, share.request)}
    policy = mesh.origins.of_path(place.document)
    if policy:
        row["policy"] = policy
    if place.original:
        meant = [replace(item, wrap=place.wrap) for item in mesh.at_address(share.request)]
        row["endpoints"] = [f"{share.request.address}:{share.request.port} (where the client meant to go)"]
        return _or_refused(row | {"callees": [_callee(mesh, item, share.request, proxy) for item in meant]})
    row["endpoints"] = [_endpoint_words(item) for item in place.endpoints]
    ready = [item for item in place.endpoints if item.is_ready]
    if not ready and place.kind != "LOGICAL_DNS":
        refusal = Refusal("no-endpoints", f"{share.cluster} has no endpoint that takes requests", 503)
        return row | {"refused": _refused(mesh, refusal, proxy, share.request)}
    return _or_refused(row | {"callees": [_callee(mesh, item, share.request, proxy) for item in _one_each(ready)]})


def _endpoint_words(item: Endpoint) -> str:
    words = [f"{item.address}:{item.port}" if item.port else item.address or "pipe"]
    workload, _, rest = item.workload.partition(";")
    if workload:
        words.append(f"{rest.partition(';')[0]}/{workload}")
    if item.priority:
        words.append(f"priority {item.priority}")
    if not item.is_ready:
        words.append(item.health.lower())
    words.append({Tls.MESH: "mutual TLS", Tls.SIMPLE: "TLS", Tls.PLAIN: "plaintext"}[item.wrap.tls])
    return " ".join(words)


def _one_each(endpoints: list[Endpoint]) -> list[Endpoint]:
    """The first endpoint of every workload in the best priority."""
    best = min(item.priority for item in endpoints) if endpoints else 0
    found: dict[str, Endpoint] = {}
    for item in endpoints:
        if item.priority == best:
            found.setdefault(item.workload or item.address, item)
    return list(found.values())


def _callee(mesh: Mesh, endpoint: Endpoint, sent: Request, sender: Proxy) -> dict[str, Any]:
    row: dict[str, Any] = {"endpoint": f"{endpoint.address}:{endpoint.port}"}
    name = mesh.proxy_of(endpoint)
    if name is None:
        return row | {"proxy": "none", "steps": [], "delivered": f"{endpoint.address}:{endpoint.port}"}
    proxy, view, resources = mesh.proxy(name)
    request = _arriving(sent, endpoint, sender, name.kind)
    hop = follow(resources, request)
    row |= {
        "proxy": f"{name.kind.value}/{name.namespace}/{name.name}",
        "steps": [_step(mesh, step, view, request, hop) for step in hop.steps],
    }
    if hop.refusal is not None:
        row["refused"] = _refused(mesh, hop.refusal, proxy, request)
    else:
        row["delivered"] = ", ".join(item.cluster for item in hop.shares) or hop.answer
    return row


def _arriving(request: Request, endpoint: Endpoint, sender: Proxy, kind: ProxyKind) -> Request:
    """The request as it reaches the callee's proxy, which is a sidecar or another gateway on the way."""
    tls, sni, alpn = endpoint.wrap.tls, endpoint.wrap.sni, endpoint.wrap.alpn
    if tls is Tls.PLAIN and request.tls is not Tls.PLAIN:
        tls, sni, alpn = request.tls, request.sni, request.alpn  # what the application encrypted itself
    return replace(
        request,
        address=endpoint.address,
        port=endpoint.port,
        tls=tls,
        sni=sni,
        alpn=alpn,
        source=sender.addresses[0] if sender.addresses else "",
        identity=sender.identity.uri if tls is Tls.MESH else "",
        inbound=kind is ProxyKind.SIDECAR,
        direct=kind is ProxyKind.GATEWAY,
    )
