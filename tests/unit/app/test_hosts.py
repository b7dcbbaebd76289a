"""The book of hosts: what reports say becomes replicas and proxies, stable until something changes."""

import pytest
from tests.unit.app.documents import WORKLOAD, of_type, revision_of

from headrace.app.control_plane.assignments import plan
from headrace.app.control_plane.hosts import HostBook
from headrace.model.mesh import MeshConfig
from headrace.model.workload import Workload
from headrace.registry.observed import ReplicaState
from headrace.wire import agent_v1_pb2 as wire

FIRST, SECOND = "default/chat-v1-0", "default/chat-v1-1"


def book() -> HostBook:
    hosts = HostBook()
    hosts.register(wire.RegisterRequest(host="a", version="0.1.0", envoy_version="1.40.0", module=True))
    hosts.planned(plan(of_type(revision_of(WORKLOAD), Workload), [], MeshConfig()), "127.0.0.1")
    return hosts


def report(*replicas: wire.ReplicaReport, sequence: int = 1) -> wire.HostReport:
    return wire.HostReport(host="a", sequence=sequence, replicas=replicas)


def replica(name: str = FIRST, state: str = "ready", started: int = 1) -> wire.ReplicaReport:
    return wire.ReplicaReport(
        id=name,
        address="127.1.2.3",
        state=state,
        started_unix_ms=started,
        outbound_port=15001,
        proxy_credentials="user:{SHA}x",
        app_ports=[wire.PortMapping(port=8000, local=20000)],
    )


def test_a_report_becomes_an_observed_replica_and_a_proxy() -> None:
    hosts = book()
    assert hosts.report(report(replica()))
    observed = hosts.observed()[FIRST]
    assert observed.state is ReplicaState.READY
    assert dict(observed.labels) == {"app": "chat", "version": "v1"}
    proxy = hosts.proxies()[FIRST]
    assert proxy.module
    assert proxy.capture.app_ports == ((8000, 20000),)
    assert proxy.addresses == ("127.1.2.3",)


def test_equal_reports_change_nothing_and_keep_the_objects() -> None:
    hosts = book()
    hosts.report(report(replica()))
    observed, proxy = hosts.observed()[FIRST], hosts.proxies()[FIRST]
    assert not hosts.report(report(replica(), sequence=2))
    assert hosts.observed()[FIRST] is observed
    assert hosts.proxies()[FIRST] is proxy


def test_a_withdrawn_replica_drains_until_it_starts_anew() -> None:
    hosts = book()
    hosts.report(report(replica()))
    hosts.withdraw(FIRST)
    assert hosts.observed()[FIRST].state is ReplicaState.DRAINING
    hosts.report(report(replica(), sequence=2))
    assert hosts.observed()[FIRST].state is ReplicaState.DRAINING
    hosts.report(report(replica(started=2), sequence=3))
    assert hosts.observed()[FIRST].state is ReplicaState.READY


def test_a_replica_that_left_the_plan_stays_known_while_it_is_reported() -> None:
    hosts = book()
    hosts.report(report(replica(), replica(SECOND)))
    hosts.planned(
        plan(of_type(revision_of(WORKLOAD.replace("replicas: 2", "replicas: 1")), Workload), [], MeshConfig()), "x"
    )
    assert SECOND in hosts.observed() and hosts.known(SECOND)
    hosts.report(report(replica(), sequence=2))
    assert SECOND not in hosts.observed()


def test_a_changed_replica_keeps_its_labels_until_it_was_replaced() -> None:
    hosts = book()
    old = plan(of_type(revision_of(WORKLOAD), Workload), [], MeshConfig())
    running = replica()
    running.spec_hash = old[0].spec_hash
    hosts.report(report(running))
    changed = plan(of_type(revision_of(WORKLOAD.replace("version: v1", "version: v2")), Workload), [], MeshConfig())
    hosts.planned(changed, "127.0.0.1")
    assert dict(hosts.observed()[FIRST].labels)["version"] == "v1"
    running.spec_hash = changed[0].spec_hash
    hosts.report(report(running, sequence=2))
    assert dict(hosts.observed()[FIRST].labels)["version"] == "v2"


def test_a_lost_host_takes_its_endpoints_with_it() -> None:
    hosts = book()
    hosts.report(report(replica()))
    hosts.lost("a")
    assert not hosts.observed()
    assert hosts.report(report(replica(), sequence=2))
    assert hosts.observed()


def test_what_is_not_planned_is_no_part_of_the_mesh() -> None:
    hosts = book()
    hosts.report(report(replica("default/stranger-0")))
    assert not hosts.observed() and not hosts.proxies()


def test_another_hosts_report_does_not_end_a_withdrawal() -> None:
    hosts = book()
    hosts.report(report(replica()))
    hosts.report(wire.HostReport(host="b", sequence=1, replicas=[replica(SECOND)]))
    hosts.withdraw(SECOND)
    hosts.report(report(replica(state="unready"), sequence=2))
    assert hosts.observed()[SECOND].state is ReplicaState.DRAINING
    hosts.report(wire.HostReport(host="b", sequence=2, replicas=[]))
    hosts.report(wire.HostReport(host="b", sequence=3, replicas=[replica(SECOND)]))
    assert hosts.observed()[SECOND].state is ReplicaState.READY


def test_a_withdrawn_replica_of_a_host_that_was_lost_stays_withdrawn() -> None:
    hosts = book()
    hosts.report(report(replica()))
    hosts.withdraw(FIRST)
    hosts.lost("a")
    hosts.report(report(replica(), sequence=2))
    assert hosts.observed()[FIRST].state is ReplicaState.DRAINING
    hosts.report(report(replica(started=2), sequence=3))
    assert hosts.observed()[FIRST].state is ReplicaState.READY


DOOR = """
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: way-out}
spec: {role: gateway, labels: {istio: egressgateway}}
"""


@pytest.mark.parametrize(
    ("bind", "address"), [("127.0.0.1", "127.0.0.1"), ("10.9.8.7", "10.9.8.7"), ("0.0.0.0", "127.1.2.3")]
)
def test_a_gateway_is_found_where_it_listens(bind: str, address: str) -> None:
    hosts = HostBook()
    hosts.register(wire.RegisterRequest(host="a", version="0.1.0", envoy_version="1.40.0"))
    hosts.planned(plan(of_type(revision_of(DOOR), Workload), [], MeshConfig()), bind)
    door = wire.ReplicaReport(
        id="default/way-out-0",
        address="127.1.2.3",
        state="ready",
        started_unix_ms=1,
        gateway_ports=[wire.PortMapping(port=443, local=8443)],
    )
    assert hosts.report(report(door))
    observed = hosts.observed()["default/way-out-0"]
    assert (observed.address, observed.port_map) == (address, ((443, 8443),))
