"""Credentials that an InferencePolicy has put into requests: is the Secret there, and is it kept from others?

HR0107 to HR0109, HR0102 and HR0103 for ServiceEntries, HR0002 where no port is HTTP. Called by `analyse`. No message
has a byte of a Secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index, Target, covers
from headrace.model.credential import UnusableCredentialError
from headrace.model.destination import TlsMode
from headrace.model.inference import InferencePolicy
from headrace.model.names import resolve_host
from headrace.model.problem import Problem
from headrace.model.service import Protocol, ServiceEntry

_SECRET = "spec.credential.secretRef"  # noqa: S105 - a field's path
_OPERATOR = re.compile(r"%[^%]*%")
"""One value in an access log's format."""
_ENCRYPTED = (TlsMode.SIMPLE, TlsMode.MUTUAL, TlsMode.ISTIO_MUTUAL)


def judge_credentials(index: Index) -> Iterator[Problem]:
    """Every judgement of every policy's credential."""
    entries = {(entry.meta.namespace, entry.meta.name): entry for entry in index.service_entries}
    owners: dict[tuple[str, str], InferencePolicy] = {}
    for policy in index.inference_policies:
        yield from _judge_entries(index, policy, entries, owners)
        if policy.credential is None:
            continue
        yield from _judge_secret(index, policy)
        yield from _judge_access_log(index, policy)
        for target in _targets(index, policy, entries):
            yield from _judge_ports(index, policy, target)


def _judge_entries(
    index: Index,
    policy: InferencePolicy,
    entries: dict[tuple[str, str], ServiceEntry],
    owners: dict[tuple[str, str], InferencePolicy],
) -> Iterator[Problem]:
    """HR0102 and HR0103."""
    for at, name in enumerate(policy.entries):
        place, key = f"spec.targetRefs[{at}]", (policy.meta.namespace, name)
        if key not in entries:
            yield index.problem(
                policy.meta,
                Code.INFERENCE_TARGET_NOT_FOUND,
                f"{place}.name",
                f"There is no ServiceEntry {key[0]}/{name}: the policy has no effect on it.",
                "Add the ServiceEntry, or correct the name; a policy is for its own namespace.",
            )
        owner = owners.setdefault(key, policy)
        if owner is not policy:
            yield index.problem(
                policy.meta,
                Code.CONFLICTING_INFERENCE_POLICIES,
                place,
                f"ServiceEntry {name} has an older InferencePolicy ({owner.meta.name}): this one has no effect on it.",
                "Merge the two, or take the target out of one.",
            )


def _judge_secret(index: Index, policy: InferencePolicy) -> Iterator[Problem]:
    """HR0107."""
    credential, namespace = policy.credential, policy.meta.namespace
    if credential is None:
        return
    secret = index.secrets.get((namespace, credential.secret))
    reason, place = "", _SECRET
    if secret is None:
        reason, place = "it is not there", f"{_SECRET}.name"
    else:
        try:
            credential.header_value(secret.data)
        except UnusableCredentialError as error:
            reason = str(error)
    if reason:
        yield index.problem(
            policy.meta,
            Code.UNUSABLE_CREDENTIAL,
            place,
            f"Secret {namespace}/{credential.secret} cannot be used: {reason}. Requests are refused with 401.",
            "Give the policy's namespace a Secret with one line of printable ASCII under the key (`echo -n` writes no "
            "line end).",
        )


def _judge_access_log(index: Index, policy: InferencePolicy) -> Iterator[Problem]:
    """HR0109: Envoy's request headers are those that were sent to the server when the access log is written."""
    credential = policy.credential
    if credential is None or not index.mesh.access_log_file:
        return
    if any(credential.header.lower() in word.lower() for word in _OPERATOR.findall(index.mesh.access_log_format)):
        yield index.problem(
            policy.meta,
            Code.CREDENTIAL_IN_ACCESS_LOG,
            "spec.credential.header",
            f"MeshConfig's accessLogFormat writes the header {credential.header}, and with it the credential.",
            "Take the header out of accessLogFormat.",
        )


def _targets(index: Index, policy: InferencePolicy, entries: dict[tuple[str, str], ServiceEntry]) -> Iterator[Target]:
    namespace = policy.meta.namespace
    hosts = [target.host(namespace) for target in policy.targets]
    for name in policy.entries:
        entry = entries.get((namespace, name))
        hosts += [resolve_host(host, namespace) for host in entry.hosts] if entry is not None else []
    for host in hosts:
        target = index.find_target(host, (namespace,))
        if target is not None:
            yield target


def _judge_ports(index: Index, policy: InferencePolicy, target: Target) -> Iterator[Problem]:
    """HR0002 and HR0108."""
    host, ports = target.host, target.source.ports
    encrypted = {port.number for port in ports if _encrypted(index, host, port.number)}
    carrying = {port.number for port in ports if port.protocol.is_http or port.protocol is Protocol.UNDECLARED}
    carrying |= {port.number for port in ports if port.protocol is Protocol.HTTPS and port.number in encrypted}
    if not carrying:
        yield index.problem(
            policy.meta,
            Code.NO_EFFECT,
            "spec.credential",
            f"credential has no effect: {host} has no port of HTTP, so that proxies see no headers.",
            "Declare the port's protocol HTTP, and let a DestinationRule originate TLS (tls.mode SIMPLE).",
        )
    elif target.source.external and not carrying <= encrypted:
        yield index.problem(
            policy.meta,
            Code.CREDENTIAL_IN_CLEAR_TEXT,
            "spec.credential",
            "The credential may leave the mesh in clear text: no DestinationRule originates TLS to port "
            f"{min(carrying - encrypted)} of {host}.",
            "Add a DestinationRule for the host with trafficPolicy.tls.mode SIMPLE, or take the port out.",
        )


def _encrypted(index: Index, host: str, port: int) -> bool:
    """Whether some rule for the host has TLS on the port."""
    for rule in index.destination_rules:
        if rule.policy is None or not covers(rule.host, host):
            continue
        own = next((found for found in rule.policy.ports if found.port == port), None)
        tls = rule.policy.tls if own is None else own.tls
        if tls is not None and tls.mode in _ENCRYPTED:
            return True
    return False
