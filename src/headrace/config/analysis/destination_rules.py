"""DestinationRules: hosts and subsets that lead somewhere, servers that are verified, TLS that fits the other side.

IST0113, IST0128, IST0129, IST0173, IST0174. Called by `analyse`.
"""

from __future__ import annotations

from collections.abc import Iterator

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index, Running, Target
from headrace.model.destination import ClientTls, DestinationRule, TlsMode
from headrace.model.problem import Problem
from headrace.model.resource import Labels, selects
from headrace.model.security import MtlsMode, PeerAuthentication
from headrace.model.service import ServiceEntry

_PLACES = ("topology.kubernetes.io/", "topology.istio.io/", "kubernetes.io/hostname")
"""Labels that endpoints get from where they run, not from their documents."""
_OWN_TLS = (TlsMode.SIMPLE, TlsMode.MUTUAL)


def judge_rules(index: Index) -> Iterator[Problem]:
    """Every judgement of every DestinationRule."""
    for rule in index.destination_rules:
        yield from _judge_verification(index, rule)
        target = index.find_target(rule.host, (rule.meta.namespace,))
        if target is None:
            yield index.problem(
                rule.meta,
                Code.UNKNOWN_RULE_HOST,
                "spec.host",
                f"The host {rule.host} defined in the DestinationRule does not match any services in the mesh.",
                "Add the Service or ServiceEntry, or correct the host.",
            )
            continue
        yield from _judge_subsets(index, rule, target)
        yield from _judge_mtls(index, rule, target)


def _judge_verification(index: Index, rule: DestinationRule) -> Iterator[Problem]:
    """IST0128 and IST0129: TLS of one's own whose server nobody verifies."""
    if rule.policy is None:
        return
    remedy = "Add caCertificates (or credentialName with a workloadSelector), and subjectAltNames."
    subject = f"DestinationRule {rule.meta.name} in namespace {rule.meta.namespace} has TLS mode set to"
    if rule.policy.tls is not None and _unverified(rule.policy.tls, rule):
        yield index.problem(
            rule.meta,
            Code.NO_SERVER_VERIFICATION,
            "spec.trafficPolicy.tls",
            f"{subject} {rule.policy.tls.mode} but no caCertificates are set to validate server identity for host: "
            f"{rule.host}.",
            remedy,
        )
    for number, port in enumerate(rule.policy.ports):
        if port.tls is not None and _unverified(port.tls, rule):
            yield index.problem(
                rule.meta,
                Code.NO_SERVER_VERIFICATION_PORT,
                f"spec.trafficPolicy.portLevelSettings[{number}].tls",
                f"{subject} {port.tls.mode} but no caCertificates are set to validate server identity for host: "
                f"{rule.host} at port {port.port}.",
                remedy,
            )


def _unverified(tls: ClientTls, rule: DestinationRule) -> bool:
    by_secret = tls.credential_name and rule.workload_selector is not None
    return tls.mode in _OWN_TLS and not tls.ca_certificates and not by_secret


def _judge_subsets(index: Index, rule: DestinationRule, target: Target) -> Iterator[Problem]:
    """IST0173, where the documents declare workloads of the service at all."""
    namespace, inline = target.meta.namespace, None
    if isinstance(target.source, ServiceEntry) and target.source.endpoints:
        inline = [dict(endpoint.labels) for endpoint in target.source.endpoints]
    elif not index.workloads_of(target):
        return
    for number, subset in enumerate(rule.subsets):
        wanted: Labels = {**(target.selector or {}), **dict(subset.labels)}
        if any(name.startswith(_PLACES) for name in wanted):
            continue
        if inline is None:
            empty = not index.workloads_with(namespace, wanted)
        else:
            empty = not any(selects(wanted, labels) for labels in inline)
        if empty:
            yield index.problem(
                rule.meta,
                Code.SUBSET_SELECTS_NOTHING,
                f"spec.subsets[{number}].labels",
                f"The Subset {subset.name} defined in the DestinationRule does not select any pods. Which may lead to "
                "503 UH (NoHealthyUpstream).",
                "Give a workload of the service these labels, or correct them.",
            )


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
