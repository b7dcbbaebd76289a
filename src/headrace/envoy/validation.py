"""Ask the real Envoy whether it accepts a proxy's resources, without starting anything.

Called by `headrace translate --validate` and by the golden tests. Everything that would come over discovery is put
into one bootstrap: listeners and clusters as they are, route tables inside listeners of their own, endpoints inside
static clusters of their own (references over ADS stay; the bootstrap has an ADS cluster, which is never called).
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from google.protobuf import json_format

from headrace.envoy.binary import pinned_envoy
from headrace.envoy.bootstrap import BootstrapSettings, bootstrap_json
from headrace.envoy.module import SEARCH_PATH, module_path
from headrace.envoy.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE, ResourceSet
from headrace.envoy.translate.hcm import Direction, HcmSettings, hcm_filter
from headrace.envoy.translate.messages import duration, packed, socket_address
from headrace.envoy.translate.tls import agent_secret
from headrace.model.mesh import MeshConfig

_SECONDS = 60.0
_TRACER = b"envoy.tracers."
_MESSAGE_LIMIT = 4000
_AT_ONCE = (cluster_pb2.Cluster.STATIC, cluster_pb2.Cluster.ORIGINAL_DST)
_FIRST_PORT = 1024
_LAST_PORT = 65_000


def refusal(sets: Mapping[str, ResourceSet]) -> str | None:
    """Why Envoy refuses one of these sets (None: it accepts them all). The names of the sets go into Envoy's message,
    in front of the names of clusters and listeners. OSError and EnvoyError where Envoy cannot be run."""
    with tempfile.TemporaryDirectory(prefix="headrace-validate-") as directory:
        path = Path(directory) / "bootstrap.json"
        path.write_bytes(static_bootstrap(sets))
        command = [str(pinned_envoy()), "--mode", "validate", "-c", str(path), "--log-level", "error"]
        own = {**os.environ, SEARCH_PATH: str(module_path().parent)}
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False, env=own)
        except subprocess.TimeoutExpired:
            return f"Envoy did not answer within {_SECONDS:.0f} s"
    return None if done.returncode == 0 else (done.stdout + done.stderr).strip()[-_MESSAGE_LIMIT:]


def static_bootstrap(sets: Mapping[str, ResourceSet]) -> bytes:
    """One bootstrap (JSON) with all that the sets hold. Listeners get addresses of their own: several sets have the
    same ones, and Envoy refuses doubles."""
    settings = BootstrapSettings(
        node_id="sidecar~127.0.0.1~validate.default~default.svc.cluster.local",
        cluster="validate",
        xds_socket=Path("/nonexistent/xds.sock"),
        admin_socket=Path("/nonexistent/admin.sock"),
    )
    bootstrap = json_format.Parse(bootstrap_json(settings), bootstrap_pb2.Bootstrap())
    bootstrap.ClearField("admin")
    addresses = _addresses()
    for prefix, resources in sets.items():
        _add(bootstrap.static_resources, prefix, resources, addresses)
    bootstrap.static_resources.clusters.extend(_collectors(sets.values()))
    return json_format.MessageToJson(bootstrap, preserving_proto_field_name=True).encode()


def _addresses() -> Any:
    for last in range(1, 255):
        for port in range(_FIRST_PORT, _LAST_PORT):
            yield socket_address(f"127.0.1.{last}", port)


def _add(static: Any, prefix: str, resources: ResourceSet, addresses: Any) -> None:
    for name, resource in resources.of_type(CLUSTER).items():
        cluster = cluster_pb2.Cluster.FromString(resource.body)
        cluster.name = f"{prefix}/{name}"
        if cluster.type in _AT_ONCE:
            _read_secrets_from_agent(cluster)
        static.clusters.append(cluster)
    for name, resource in resources.of_type(LISTENER).items():
        listener = listener_pb2.Listener.FromString(resource.body)
        listener.name = f"{prefix}/{name}"
        protocol = listener.address.socket_address.protocol
        listener.address.CopyFrom(next(addresses))
        listener.address.socket_address.protocol = protocol
        listener.ClearField("additional_addresses")
        static.listeners.append(listener)
    for name, resource in resources.of_type(ROUTE).items():
        routes = route_pb2.RouteConfiguration.FromString(resource.body)
        static.listeners.append(_route_listener(f"{prefix}/{name}", routes, next(addresses)))
    for name, resource in resources.of_type(ENDPOINT).items():
        assignment = endpoint_pb2.ClusterLoadAssignment.FromString(resource.body)
        assignment.cluster_name = f"{prefix}/endpoints/{name}"
        static.clusters.append(
            cluster_pb2.Cluster(
                name=assignment.cluster_name,
                type=cluster_pb2.Cluster.STATIC,
                connect_timeout=duration(1),
                load_assignment=assignment,
            )
        )


def _collectors(sets: Iterable[ResourceSet]) -> Iterator[Any]:
    """Stands for the clusters that a tracer looks up by their own names as soon as it is made."""
    names = set[str]()
    for resources in sets:
        traced = [item.body for item in resources.of_type(LISTENER).values() if _TRACER in item.body]
        named = (name for name in resources.of_type(CLUSTER) if any(name.encode() in body for body in traced))
        names.update(named)
    for name in sorted(names):
        yield cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.STATIC, connect_timeout=duration(1))


def _read_secrets_from_agent(cluster: Any) -> None:
    """Let the cluster's secrets come from the agent's cluster instead of ADS.

    Envoy 1.40 crashes (null pointer) where a static cluster that starts at once reads a secret over ADS, because ADS
    starts after such clusters. A cluster that comes over ADS itself cannot meet that.
    """
    context = tls_pb2.UpstreamTlsContext()
    if not cluster.transport_socket.typed_config.Unpack(context):
        return
    common = context.common_tls_context
    secrets = [*common.tls_certificate_sds_secret_configs]
    if common.HasField("combined_validation_context"):
        secrets.append(common.combined_validation_context.validation_context_sds_secret_config)
    for secret in secrets:
        if secret.sds_config.HasField("ads"):
            secret.CopyFrom(agent_secret(secret.name))
    cluster.transport_socket.typed_config.CopyFrom(packed(context))


def _route_listener(name: str, routes: Any, address: Any) -> Any:
    settings = HcmSettings(Direction.OUTBOUND, stat_prefix="validate", mesh=MeshConfig(), routes=routes)
    return listener_pb2.Listener(
        name=f"{name}/routes",
        address=address,
        filter_chains=[listener_components_pb2.FilterChain(filters=[hcm_filter(settings)])],
    )
