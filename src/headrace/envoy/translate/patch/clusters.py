"""Patches of clusters.

Called by `patch`. The rules are Istio's (ApplyClusterMerge): a removal ends it, merges follow each other, a transport
socket goes into the one of the same name or takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2

from headrace.envoy.translate.messages import serialized
from headrace.envoy.translate.patch.choice import Chosen, Read
from headrace.envoy.translate.patch.merge import merge, merge_any
from headrace.model.envoy_filter import ApplyTo, ClusterMatch, Operation


def changing(chosen: Chosen) -> list[Read]:
    """The patches that change or remove clusters."""
    return [item for item in chosen.of(ApplyTo.CLUSTER) if item.operation.merges or item.operation is Operation.REMOVE]


def matching(reads: Sequence[Read], name: str, hosts: Sequence[str]) -> list[Read]:
    """Those for the cluster `name`; `hosts` are the services that it stands for, if it leads to the application
    itself."""
    return [item for item in reads if item.patch.cluster is None or _matches(item.patch.cluster, name, hosts)]


def patched_cluster(body: bytes, found: Sequence[Read]) -> bytes | None:
    """The cluster after these patches; None: it is removed."""
    cluster = cluster_pb2.Cluster.FromString(body)
    for item in found:
        if item.operation is Operation.REMOVE:
            return None
        if not _merged_socket(cluster, item.value):
            merge(cluster, item.value, replace_lists=item.operation is Operation.MERGE_AND_REPLACE_LIST)
    return serialized(cluster)


def _matches(match: ClusterMatch, name: str, hosts: Sequence[str]) -> bool:
    if match.name:
        return match.name == name
    parts = name.split("|")
    direction, port, subset, host = parts if len(parts) == 4 else ("", "", "", "")
    names = hosts if direction == "inbound" and hosts else (host,)
    return (
        match.subset in ("", subset)
        and (not match.service or match.service in names)
        and (not match.port or str(match.port) == port)
    )


def _merged_socket(cluster: Any, change: Any) -> bool:
    """Whether the patch brings a transport socket, which is all that is taken from it then (as in Istio)."""
    if not change.HasField("transport_socket"):
        return False
    socket = change.transport_socket
    if cluster.transport_socket_matches:
        held = next(
            (
                item.transport_socket
                for item in cluster.transport_socket_matches
                if item.transport_socket.name == socket.name
            ),
            None,
        )
        if held is not None:
            merge_any(held.typed_config, socket.typed_config)
    elif cluster.HasField("transport_socket") and cluster.transport_socket.name == socket.name:
        if socket.HasField("typed_config"):
            merge_any(cluster.transport_socket.typed_config, socket.typed_config)
    else:
        cluster.transport_socket.CopyFrom(socket)
    return True
