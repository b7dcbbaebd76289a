"""DestinationRules: hosts and subsets that lead somewhere, servers that are verified, TLS that fits the other side.

IST0113, IST0128, IST0129, IST0173, IST0174. Called by `analyse`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headrace.config.analysis.codes import Code
from headrace.config.analysis.destinations import scopes_of
from headrace.config.analysis.index import Index, Running, Target
from headrace.config.analysis.written import Written, items, pairs, text, within
from headrace.config.documents import Path
from headrace.model.destination import DestinationRule, TlsMode
from headrace.model.names import resolve_host
from headrace.model.problem import Problem
from headrace.model.resource import Labels, selects
from headrace.model.security import MtlsMode, PeerAuthentication
from headrace.model.service import ServiceEntry

_PLACES = ("topology.kubernetes.io/", "topology.istio.io/", "kubernetes.io/hostname")
"""Labels that endpoints get from where they run, not from their documents."""
_HOSTNAME = "kubernetes.io/hostname"
_OF_NODES = ("topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone")
_OWN_TLS = ("SIMPLE", "MUTUAL")


def judge_rules(index: Index) -> Iterator[Problem]:
    """Every judgement of every DestinationRule."""
    pods = _Pods(index)
    for rule in index.written.kind("networking.istio.io", "DestinationRule"):
        yield from _judge_verification(rule)
        host = resolve_host(text(rule.spec, "host"), rule.namespace)
        target = index.find_host(host, rule.namespace, scopes_of(rule)) if text(rule.spec, "host") else None
        if target is None:
            yield rule.problem(
                Code.UNKNOWN_RULE_HOST,
                ("spec", "host"),
                f"The host {host} defined in the DestinationRule does not match any services in the mesh.",
                "Add the Service or ServiceEntry, or correct the host.",
            )
        else:
            yield from _judge_subsets(index, rule, target, pods)
    for lowered in index.destination_rules:
        target = index.find_target(lowered.host, (lowered.meta.namespace,))
        if target is not None:
            yield from _judge_mtls(index, lowered, target)


def _judge_verification(rule: Written) -> Iterator[Problem]:
    """IST0128 and IST0129: TLS of one's own whose server nobody verifies."""
    policy = within(rule.spec, "trafficPolicy")
    remedy = "Add caCertificates (or credentialName with a workloadSelector), and subjectAltNames."
    for place, tls, port in _client_tls(policy):
        mode = text(tls, "mode")
        by_secret = text(tls, "credentialName") and within(rule.spec, "workloadSelector") is not None
        if mode in _OWN_TLS and not text(tls, "caCertificates") and not by_secret:
            at = f" at port {port}" if port is not None else ""
            yield rule.problem(
                Code.NO_SERVER_VERIFICATION if port is None else Code.NO_SERVER_VERIFICATION_PORT,
                ("spec", "trafficPolicy", *place, "tls"),
                f"DestinationRule {rule.name} in namespace {rule.namespace} has TLS mode set to {mode} but no "
                f"caCertificates are set to validate server identity for host: {text(rule.spec, 'host')}{at}.",
                remedy,
            )


def _client_tls(policy: Any) -> Iterator[tuple[Path, Any, str | None]]:
    """The TLS settings of a policy, for all ports and for single ones."""
    yield (), within(policy, "tls"), None
    for number, port in enumerate(items(policy, "portLevelSettings")):
        yield ("portLevelSettings", number), within(port, "tls"), str(within(port, "port", "number"))


class _Pods:
    """All workloads by their labels, whatever their namespace: what Istio looks for a subset's labels in."""

    def __init__(self, index: Index) -> None:
        self._labelled: dict[tuple[str, str], list[_Labelled]] = defaultdict(list)
        self._all: list[_Labelled] = []
        nodes = {node.name: node.labels for node in index.written.kind("", "Node")}
        pods = {(pod.namespace, pod.name): pod for pod in index.written.kind("", "Pod")}
        for running in index.running:
            labels, placed = dict(running.labels), False
            if running.meta.key.kind == "Pod":
                pod = pods.get((running.meta.namespace, running.meta.name))
                node = text(pod.spec, "nodeName") if pod else ""
                labels |= {name: value for name, value in nodes.get(node, {}).items() if name in _OF_NODES and value}
                labels |= {_HOSTNAME: node} if node else {}
                placed = True
            found = _Labelled(labels, placed)
            self._all.append(found)
            for pair in labels.items():
                self._labelled[pair].append(found)

    def have(self, wanted: Labels) -> bool:
        """Whether some workload has the labels; where one runs may be unknown, and is then taken to fit."""
        known = {name: value for name, value in wanted.items() if not name.startswith(_PLACES)}
        near = min((self._labelled.get(pair, []) for pair in known.items()), key=len, default=self._all)
        return any(selects(wanted if found.placed else known, found.labels) for found in near)


@dataclass(frozen=True, slots=True)
class _Labelled:
    """Labels of a workload; `placed`: with those of where it runs."""

    labels: Labels
    placed: bool


def _judge_subsets(index: Index, rule: Written, target: Target, pods: _Pods) -> Iterator[Problem]:
    """IST0173. Where Headrace runs the workloads, the labels must be those of the service's own, if it has any."""
    if isinstance(target.source, ServiceEntry) and target.source.endpoints:
        inline = [dict(endpoint.labels) for endpoint in target.source.endpoints]
    else:
        inline = None
    if inline is None and index.hosted and not index.workloads_of(target):
        return
    for number, subset in enumerate(items(rule.spec, "subsets")):
        if _is_empty(index, target, pairs(subset, "labels"), inline, pods):
            yield rule.problem(
                Code.SUBSET_SELECTS_NOTHING,
                ("spec", "subsets", number, "labels"),
                f"The Subset {text(subset, 'name')} defined in the DestinationRule does not select any pods. Which may "
                "lead to 503 UH (NoHealthyUpstream).",
                "Give a workload of the service these labels, or correct them.",
            )


def _is_empty(index: Index, target: Target, labels: Labels, inline: list[dict[str, str]] | None, pods: _Pods) -> bool:
    """Whether nothing of the target has a subset's labels."""
    entry = isinstance(target.source, ServiceEntry)
    if not index.hosted and inline is None:
        return not pods.have({**(target.selector or {} if entry else {}), **labels})
    wanted: Labels = {**(target.selector or {}), **labels}
    if any(name.startswith(_PLACES) for name in wanted):
        return False
    if inline is None:
        return not index.workloads_with(target.meta.namespace, wanted)
    return not any(selects(wanted, found) for found in inline)


def _judge_mtls(index: Index, rule: DestinationRule, target: Target) -> Iterator[Problem]:
    """IST0113: the rule's callers and the service's workloads disagree about mutual TLS."""
    tls = rule.policy.tls if rule.policy else None
    if tls is None:
        return
    for running in index.workloads_of(target):
        mode = effective_mode(index, running)
        refused = mode is MtlsMode.STRICT and tls.mode is not TlsMode.ISTIO_MUTUAL
        if refused or (mode is MtlsMode.DISABLE and tls.mode is TlsMode.ISTIO_MUTUAL):
            yield index.problem(
                rule.meta,
                Code.MTLS_CONFLICT,
                "spec.trafficPolicy.tls.mode",
                f"TLS mode {tls.mode} conflicts with the PeerAuthentication of {running.meta.key}, which is {mode}: "
                "every request fails.",
                "Use ISTIO_MUTUAL (or take tls out) for STRICT, DISABLE for DISABLE.",
            )
            return


def effective_mode(index: Index, running: Running) -> MtlsMode:
    """What a workload demands of its callers: its own PeerAuthentication, else the namespace's, else the mesh's, of
    each scope the oldest; PERMISSIVE where none says anything."""
    namespace, root = running.meta.namespace, index.mesh.root_namespace
    own: list[PeerAuthentication] = []
    wide: list[PeerAuthentication] = []
    mesh: list[PeerAuthentication] = []
    for policy in index.peer_authentications:
        if policy.meta.namespace == namespace and policy.selector and namespace != root:
            if selects(policy.selector, running.labels):
                own.append(policy)
        elif not policy.selector:
            if policy.meta.namespace == root:
                mesh.append(policy)
            elif policy.meta.namespace == namespace:
                wide.append(policy)
    for scope in (own, wide, mesh):
        if scope and scope[0].mode is not MtlsMode.UNSET:
            return scope[0].mode
    return MtlsMode.PERMISSIVE
