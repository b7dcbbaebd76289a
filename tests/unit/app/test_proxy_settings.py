"""ProxyConfigs, from the documents to what the host is told of a replica's Envoy."""

from __future__ import annotations

from tests.unit.app.documents import WORKLOAD, of_type, revision_of

from headrace.agent.spec import parse_replica
from headrace.app.control_plane.assignments import PlannedReplica, assignment, plan
from headrace.model.proxy_config import UNSET, ProxyConfig, ProxySettings
from headrace.model.workload import Workload

NAMESPACE = """
apiVersion: networking.istio.io/v1beta1
kind: ProxyConfig
metadata: {name: wide}
spec: {concurrency: 2, environmentVariables: {ZONE: wide, ONE: "1"}}
"""
SELECTED = """
apiVersion: networking.istio.io/v1beta1
kind: ProxyConfig
metadata: {name: own}
spec: {selector: {matchLabels: {app: chat}}, environmentVariables: {ZONE: own}}
"""
OTHER = SELECTED.replace("app: chat", "app: other").replace("own", "other")
ROOT = NAMESPACE.replace("name: wide", "name: root, namespace: istio-system").replace(
    "concurrency: 2", "concurrency: 7"
)
MESH = """
apiVersion: headrace.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {defaultConfig: {concurrency: 9, proxyMetadata: {MESH: "yes"}}}
"""


def planned(*texts: str) -> tuple[PlannedReplica, ...]:
    revision = revision_of(*texts)
    configs = sorted(of_type(revision, ProxyConfig), key=lambda item: item.meta.age())
    return plan(of_type(revision, Workload), [], revision.mesh, configs)


def annotated(text: str) -> str:
    return WORKLOAD.replace("metadata: {", "metadata: {annotations: {proxy.istio.io/config: '" + text + "'}, ", 1)


def test_nothing_said_changes_nothing() -> None:
    assert {replica.proxy for replica in planned(WORKLOAD, OTHER)} == {UNSET}


def test_the_narrowest_document_counts_and_the_wider_ones_fill_in() -> None:
    first, _ = planned(WORKLOAD, NAMESPACE, SELECTED, OTHER, ROOT, MESH)
    assert first.proxy == ProxySettings(2, (("MESH", "yes"), ("ONE", "1"), ("ZONE", "own")))
    first, _ = planned(WORKLOAD, ROOT)
    assert first.proxy.concurrency == 7
    first, _ = planned(annotated("concurrency: 3"), NAMESPACE, SELECTED)
    assert first.proxy.concurrency == 3


def test_the_host_is_told_and_the_replica_is_replaced() -> None:
    plain, _ = planned(WORKLOAD)
    first, other = planned(WORKLOAD, NAMESPACE)
    assert first.spec_hash != plain.spec_hash
    told = assignment((first, other), "127.0.0.1").replicas[0]
    assert parse_replica(told).proxy == ProxySettings(2, (("ONE", "1"), ("ZONE", "wide")))
    assert parse_replica(assignment((plain,), "127.0.0.1").replicas[0]).proxy == UNSET


def test_an_annotation_that_is_no_proxy_config_says_nothing() -> None:
    assert planned(annotated("concurrency: many"))[0].proxy == UNSET
