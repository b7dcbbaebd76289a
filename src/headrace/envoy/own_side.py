"""A workload's own side as its Sidecar has it: ports, and the connection pools towards the application.

Called by `envoy.scopes`. Rules (Istio): a Sidecar with ingress listens on those ports instead of on what services make
of the workload's; connection pools are the port's in the Sidecar, else the Sidecar's, else those of the DestinationRule
of the service in front (both ends of a connection have them).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from headrace.model.destination import ConnectionPool
from headrace.model.proxy import WorkloadPortView

if TYPE_CHECKING:
    from headrace.envoy.view import Scope


def own_ports(ports: tuple[WorkloadPortView, ...], scope: Scope) -> tuple[WorkloadPortView, ...]:
    """The ports that are listened on, by number; those of a Sidecar with what a service in front says beside the
    protocol. `ports` is what services make of them."""
    if scope.sidecar is None or not scope.sidecar.ingress:
        return ports
    known = {port.number: port for port in ports}
    engine = next((port.engine for port in ports), None)
    found = []
    for item in sorted(scope.sidecar.ingress, key=lambda item: item.port):
        port = known.get(item.port, WorkloadPortView(item.port, item.name, "", engine))
        found.append(replace(port, name=item.name, protocol=item.protocol.value))
    return tuple(found)


def own_pools(ports: tuple[WorkloadPortView, ...], scope: Scope) -> Iterator[tuple[int, ConnectionPool]]:
    """The connection pools by port of the workload."""
    sidecar = scope.sidecar
    written = {item.port: item.pool for item in sidecar.ingress if item.pool} if sidecar is not None else {}
    for port in ports:
        own = written.get(port.number) or (sidecar.inbound_pool if sidecar is not None else None)
        if own is not None:
            yield port.number, own
            continue
        target = scope.by_host.get(port.host)
        if target is not None and target.rule is not None and target.rule.policy is not None:
            pool = target.rule.policy.pool_of(port.service_port)
            if pool is not None:
                yield port.number, pool
