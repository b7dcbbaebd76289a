"""Load assignments: the endpoints of one cluster, by locality.

Called by `translate` for EDS clusters (the short path of an endpoint change: nothing else is built) and by `clusters`
for DNS clusters, whose endpoints are part of the cluster. Endpoint metadata says which endpoints have a mesh
certificate (`tlsMode`), and who they are, in Istio's form.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from envoy.config.core.v3 import base_pb2, health_check_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2 as part_pb2
from envoy.config.endpoint.v3 import endpoint_pb2

from headrace.envoy.translate.localities import Group
from headrace.envoy.translate.messages import server_address, uint32
from headrace.model.locality import parts_of_locality
from headrace.model.service import Endpoint, Health
from headrace.model.traffic import Pairs

TRANSPORT_SOCKET_MATCH = "envoy.transport_socket_match"
_UNIX = "unix://"
_HEALTH = {
    Health.HEALTHY: health_check_pb2.HEALTHY,
    Health.UNHEALTHY: health_check_pb2.UNHEALTHY,
    Health.DRAINING: health_check_pb2.DRAINING,
}


def is_address(text: str) -> bool:
    """Whether a load assignment may hold it: an IP address or a socket's path. A host name there makes Envoy refuse the
    whole assignment; only DNS clusters resolve names."""
    if text.startswith(_UNIX):
        return True
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def in_subset(endpoints: Iterable[Endpoint], port: int, labels: Pairs) -> list[Endpoint]:
    """The endpoints of one service port that carry all of a subset's labels."""
    wanted = set(labels)
    return [item for item in endpoints if item.service_port == port and wanted <= set(item.labels)]


def taking_requests(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """Those that may get new requests. Clusters that balance by themselves get no others: where all endpoints drain,
    Envoy would send there again (its panic mode); the native module never does."""
    return tuple(item for item in endpoints if item.health is Health.HEALTHY)


def load_assignment(cluster: str, groups: Iterable[Group]) -> Any:
    """The ClusterLoadAssignment of these groups of endpoints (`localities.groups_of`)."""
    assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name=cluster)
    for group in groups:
        assignment.endpoints.append(
            part_pb2.LocalityLbEndpoints(
                locality=_locality(group.locality),
                lb_endpoints=[_lb_endpoint(endpoint) for endpoint in group.endpoints],
                load_balancing_weight=uint32(group.weight),
                priority=group.priority,
            )
        )
    return assignment


def _locality(name: str) -> Any:
    region, zone, sub_zone = parts_of_locality(name)
    return base_pb2.Locality(region=region, zone=zone, sub_zone=sub_zone)


def _lb_endpoint(endpoint: Endpoint) -> Any:
    found = part_pb2.LbEndpoint(
        endpoint=part_pb2.Endpoint(address=server_address(endpoint.address, endpoint.port)),
        health_status=_HEALTH[endpoint.health],
        load_balancing_weight=uint32(endpoint.weight or 1),
    )
    if endpoint.mtls:
        found.metadata.filter_metadata[TRANSPORT_SOCKET_MATCH]["tlsMode"] = "istio"
    if endpoint.workload or endpoint.labels:
        found.metadata.filter_metadata["istio"]["workload"] = _workload(endpoint)
    return found


def _workload(endpoint: Endpoint) -> str:
    """`workload;namespace;canonical name;canonical revision;cluster`, as Istio's telemetry reads it."""
    labels = dict(endpoint.labels)
    name = next(
        (labels[key] for key in ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app") if key in labels),
        endpoint.workload,
    )
    revision = next(
        (
            labels[key]
            for key in ("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")
            if key in labels
        ),
        "",
    )
    return f"{endpoint.workload};{endpoint.namespace};{name};{revision};Kubernetes"
