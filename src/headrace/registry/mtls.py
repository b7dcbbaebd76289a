"""Which mutual TLS a workload accepts: PeerAuthentication documents settled per workload and port.

Called by `registry.build` (endpoints of a workload that refuses TLS are not offered it) and `envoy.scopes` (inbound).
Rule: mesh < namespace < workload, the oldest document wins per scope, selectors in the root namespace are ignored,
UNSET inherits, the top default is PERMISSIVE; port modes count only in documents with a selector
(istio.security.v1.PeerAuthentication).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from headrace.model.resource import Labels, selects
from headrace.model.security import MtlsMode, PeerAuthentication


@dataclass(frozen=True, slots=True)
class MtlsPolicy:
    """What one workload accepts: `mode`, and the ports (of the workload) that differ, sorted."""

    mode: MtlsMode = MtlsMode.PERMISSIVE
    ports: tuple[tuple[int, MtlsMode], ...] = ()

    def of_port(self, port: int) -> MtlsMode:
        """The mode of one port of the workload."""
        for number, mode in self.ports:
            if number == port:
                return mode
        return self.mode


def settle(policies: Iterable[PeerAuthentication], root: str, namespace: str, labels: Labels) -> MtlsPolicy:
    """The policy of the workload with `labels` in `namespace`; `policies` are ordered oldest first."""
    levels = _levels(policies, root, namespace, labels)
    workload = levels[-1]
    mode = MtlsMode.PERMISSIVE
    for level in levels:
        if level is not None and level.mode is not MtlsMode.UNSET:
            mode = level.mode
    ports = workload.port_modes if workload else ()
    return MtlsPolicy(mode, tuple(sorted((port, mode if own is MtlsMode.UNSET else own) for port, own in ports)))


def deciding(
    policies: Iterable[PeerAuthentication], root: str, namespace: str, labels: Labels, port: int
) -> PeerAuthentication | None:
    """The document that settles the mode of one port of the workload; None where the default holds."""
    levels = _levels(policies, root, namespace, labels)
    workload = levels[-1]
    if workload is not None and dict(workload.port_modes).get(port, MtlsMode.UNSET) is not MtlsMode.UNSET:
        return workload
    return next((level for level in reversed(levels) if level is not None and level.mode is not MtlsMode.UNSET), None)


_Level = PeerAuthentication | None


def _levels(
    policies: Iterable[PeerAuthentication], root: str, namespace: str, labels: Labels
) -> tuple[_Level, _Level, _Level]:
    """The documents of mesh, namespace and workload that count for the workload."""
    mesh: _Level = None
    whole_namespace: _Level = None
    workload: _Level = None
    for policy in policies:
        own = policy.meta.namespace
        if own == root and not policy.selector:
            mesh = mesh or policy
        if own != namespace or own == root:
            continue
        if not policy.selector:
            whole_namespace = whole_namespace or policy
        elif selects(policy.selector, labels):
            workload = workload or policy
    return mesh, whole_namespace, workload
