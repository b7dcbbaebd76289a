"""What hosts must run, from documents alone."""

from tests.unit.app.documents import GATEWAY, WORKLOAD, of_type, revision_of

from headrace.app.control_plane.assignments import PlannedReplica, assignment, plan
from headrace.model.gateway import Gateway
from headrace.model.mesh import MeshConfig
from headrace.model.workload import Workload, WorkloadRole


def planned(*texts: str) -> tuple[PlannedReplica, ...]:
    revision = revision_of(*texts)
    return plan(of_type(revision, Workload), list(of_type(revision, Gateway)), MeshConfig())


def test_every_replica_has_a_stable_id_and_its_service_accounts_identity() -> None:
    replicas = planned(WORKLOAD)
    assert [replica.id for replica in replicas] == ["default/chat-v1-0", "default/chat-v1-1"]
    assert {replica.identity.uri for replica in replicas} == {"spiffe://cluster.local/ns/default/sa/model"}


def test_a_gateway_without_a_workload_gets_a_proxy_named_as_istio_does() -> None:
    (gateway,) = planned(GATEWAY)
    assert gateway.id == "istio-system/istio-ingressgateway-0"
    assert gateway.role is WorkloadRole.GATEWAY
    assert gateway.identity.uri == "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account"
    assert gateway.labels == {"istio": "ingressgateway", "app": "istio-ingressgateway"}
    assert [port.number for port in gateway.ports] == [80, 8443]


def test_a_declared_gateway_workload_serves_the_gateways_that_select_it() -> None:
    declared = """
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: door, namespace: edge}
spec: {role: gateway, labels: {istio: ingressgateway, app: door}}
"""
    (gateway,) = planned(GATEWAY, declared)
    assert gateway.id == "edge/door-0"
    assert [port.number for port in gateway.ports] == [80, 8443]


def test_two_gateways_with_one_selector_share_a_proxy() -> None:
    second = GATEWAY.replace("name: door", "name: second").replace("number: 80", "number: 81")
    (gateway,) = planned(GATEWAY, second)
    assert [port.number for port in gateway.ports] == [80, 81, 8443]


def test_a_wider_selector_is_served_by_the_proxy_of_a_narrower_one() -> None:
    narrow = GATEWAY.replace("name: door", "name: narrow").replace(
        "{istio: ingressgateway}", "{istio: ingressgateway, zone: a}"
    )
    (gateway,) = planned(GATEWAY, narrow)
    assert gateway.labels["zone"] == "a"


def test_the_assignment_carries_the_whole_workload() -> None:
    first = assignment(planned(WORKLOAD), "127.0.0.1").replicas[0]
    assert list(first.command) == ["serve", "--port", "$(PORT)"]
    assert [(item.name, item.value) for item in first.env] == [("A", "1")]
    assert first.grace_period_ms == 5000
    assert (first.readiness.http_path, first.readiness.period_ms) == ("/health", 2000)
    assert not first.HasField("liveness")
    assert first.bind == ""


def test_order_of_documents_does_not_matter() -> None:
    assert assignment(planned(WORKLOAD, GATEWAY), "127.0.0.1") == assignment(planned(GATEWAY, WORKLOAD), "127.0.0.1")


def test_a_replica_is_replaced_for_a_new_command_but_not_for_a_new_probe() -> None:
    def spec_hash(text: str) -> str:
        return assignment(planned(text), "127.0.0.1").replicas[0].spec_hash

    assert spec_hash(WORKLOAD) != spec_hash(WORKLOAD.replace("serve", "serve2"))
    assert spec_hash(WORKLOAD) != spec_hash(WORKLOAD.replace("version: v1", "version: v9"))
    assert spec_hash(WORKLOAD) == spec_hash(WORKLOAD.replace("periodSeconds: 2", "periodSeconds: 9"))
    assert spec_hash(WORKLOAD) == spec_hash(WORKLOAD.replace("replicas: 2", "replicas: 5"))


def test_a_gateway_takes_new_ports_in_place() -> None:
    before = assignment(planned(GATEWAY), "127.0.0.1").replicas[0]
    after = assignment(planned(GATEWAY.replace("number: 80", "number: 81")), "127.0.0.1").replicas[0]
    assert before.spec_hash == after.spec_hash
    assert [port.number for port in before.ports] != [port.number for port in after.ports]


def test_an_engine_is_told_without_replacing_the_process() -> None:
    unnamed = WORKLOAD.replace("  engine: vllm\n", "")
    before, after = (assignment(planned(text), "127.0.0.1").replicas[0] for text in (unnamed, WORKLOAD))
    assert (before.engine, after.engine) == ("", "vllm")
    assert before.spec_hash == after.spec_hash


def test_replicas_go_to_the_hosts_of_the_annotation_in_turn() -> None:
    annotated = WORKLOAD.replace("{name: chat-v1}", '{name: chat-v1, annotations: {headrace.dev/host: "b, local"}}')
    assert [replica.host for replica in planned(annotated)] == ["b", "local"]
    assert [replica.host for replica in planned(WORKLOAD)] == ["", ""]
    assert [replica.spec_hash for replica in planned(annotated)] == [replica.spec_hash for replica in planned(WORKLOAD)]
