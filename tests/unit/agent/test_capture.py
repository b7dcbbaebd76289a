"""Addresses, ports and credentials of loopback capture. The sockets are real."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.agent.capture import Attachment, CaptureError, LoopbackCapture
from headrace.agent.spec import ReplicaSpec
from headrace.model.identity import Identity
from headrace.model.workload import WorkloadPort, WorkloadRole

STATE = Path("/somewhere/.headrace")


def capture(state: Path = STATE) -> LoopbackCapture:
    return LoopbackCapture(state, lambda: "s" * 43)


def spec(name: str = "chat-0", *ports: int, role: WorkloadRole = WorkloadRole.SIDECAR) -> ReplicaSpec:
    return ReplicaSpec(
        id=f"default/{name}",
        namespace="default",
        workload="chat",
        index=0,
        role=role,
        identity=Identity("cluster.local", "default", "chat"),
        spec_hash="1",
        ports=tuple(WorkloadPort(port) for port in ports or (8000,)),
    )


@contextlib.contextmanager
def listening(address: str, port: int) -> Iterator[int]:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, port))
        server.listen()
        yield server.getsockname()[1]


def test_every_replica_has_an_address_of_its_own_in_the_meshs_block() -> None:
    one = capture()
    given = [one.attach(spec(f"chat-{index}")) for index in range(300)]
    addresses = {item.address for item in given}
    assert len(addresses) == 300
    assert all(address.startswith("127.") and not address.endswith((".0", ".255")) for address in addresses)
    assert not any(address.startswith("127.0.") for address in addresses), "people use those by hand"
    locals_ = {local for item in given for _, local in item.app_ports}
    assert len(locals_) == 300 and all(20_000 <= local < 30_000 for local in locals_)


def test_the_same_state_directory_gives_the_same_addresses_another_one_others() -> None:
    before = capture()
    given = before.attach(spec())
    del before  # as its process would be gone
    assert capture().attach(spec()) == given
    blocks = {capture(Path(f"/mesh-{index}")).attach(spec()).address for index in range(40)}
    assert len(blocks) >= 38


def test_a_taken_address_is_passed_over() -> None:
    first = capture().attach(spec()).address
    with listening(first, 8000):
        assert capture().attach(spec()).address != first
    with listening(first, 15001):
        assert capture().attach(spec()).address != first


def test_a_port_that_is_taken_everywhere_is_explained() -> None:
    with listening("0.0.0.0", 0) as port, pytest.raises(CaptureError, match=r"0\.0\.0\.0 takes its port on every addr"):
        capture().attach(spec("chat-0", port))


def test_a_taken_application_port_is_passed_over() -> None:
    first = capture().attach(spec()).app_ports
    with listening("127.0.0.1", first[0][1]):
        assert capture().attach(spec()).app_ports != first


def test_a_returning_replica_gets_its_address_back_and_no_other_replica_gets_it() -> None:
    one = capture()
    first, second = one.attach(spec("a-0")), one.attach(spec("b-0"))
    one.release("default/a-0")
    assert one.attach(spec("c-0")).address not in (first.address, second.address)
    assert one.attach(spec("a-0")).address == first.address


def test_what_an_earlier_agent_gave_out_is_kept() -> None:
    old, one = capture().attach(spec("a-0")), capture()
    one.keep("default/a-0", old)
    other = one.attach(spec("b-0"))
    assert other.address != old.address and other.app_ports[0][1] != old.app_ports[0][1]


def test_the_outbound_port_gives_way_to_the_workloads() -> None:
    assert capture().attach(spec()).outbound_port == 15001
    assert capture().attach(spec("chat-0", 15001, 15002)).outbound_port == 15003


def test_a_successor_keeps_address_and_credentials_and_gets_other_ports() -> None:
    one = capture()
    old = one.attach(spec())
    new = one.successor(spec("chat-0", 8000, 9000), old)
    assert (new.address, new.secret, new.outbound_port) == (old.address, old.secret, old.outbound_port)
    assert [port for port, _ in new.app_ports] == [8000, 9000]
    assert not {local for _, local in new.app_ports} & {local for _, local in old.app_ports}
    third = one.successor(spec("chat-0", 8000), new)
    assert not {local for _, local in third.app_ports} & {local for _, local in new.app_ports}


def test_only_a_hash_of_the_secret_can_be_reported() -> None:
    given = capture().attach(spec())
    digest = base64.b64encode(hashlib.sha1(given.secret.encode()).digest()).decode()
    assert given.credentials() == f"chat-0:{{SHA}}{digest}"
    assert given.secret not in repr(given)
    environment = capture().environment(given)
    assert environment["HTTP_PROXY"] == f"http://chat-0:{given.secret}@{given.address}:15001"


def test_a_workload_without_ports_still_has_a_port_to_listen_on() -> None:
    given = capture().attach(replace(spec(), ports=()))
    assert given.local_port(0) > 0


def test_a_port_that_is_not_the_workloads_is_asked_as_it_is() -> None:
    given = capture().attach(spec("chat-0", 8000, 9000))
    ports = dict(given.app_ports)
    assert (given.local_port(0), given.local_port(9000), given.local_port(9999)) == (ports[8000], ports[9000], 9999)


def test_a_gateway_gets_its_ports_and_the_next_free_one_where_it_cannot() -> None:
    with listening("127.0.0.1", 0) as taken:
        given = capture().attach(spec("edge-0", 18441, taken, role=WorkloadRole.GATEWAY))
        ports = dict(given.gateway_ports)
        assert ports[18441] == 18441 and taken < ports[taken] < taken + 100
        assert (given.app_ports, given.secret, given.credentials()) == ((), "", "")


def test_privileged_ports_move_up_by_8000(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unprivileged(socket.socket):
        def bind(self, address: tuple[str, int] | str) -> None:  # type: ignore[override]
            if not isinstance(address, str) and address[1] < 1024:
                raise PermissionError(13, "Permission denied")
            super().bind(address)

    monkeypatch.setattr("headrace.agent.claims.socket.socket", Unprivileged)
    given = capture().attach(replace(spec("edge-0", 81, 444, role=WorkloadRole.GATEWAY), bind="127.77.0.1"))
    assert given.gateway_ports == ((81, 8081), (444, 8444))


def test_two_gateways_share_no_port_and_a_change_keeps_what_stays() -> None:
    one = capture()
    first = one.attach(spec("edge-0", 18442, role=WorkloadRole.GATEWAY))
    second = one.attach(spec("edge-1", 18442, role=WorkloadRole.GATEWAY))
    assert first.gateway_ports == ((18442, 18442),) and second.gateway_ports == ((18442, 18443),)
    changed = one.successor(spec("edge-1", 18442, 18444, role=WorkloadRole.GATEWAY), second)
    assert changed.gateway_ports == ((18442, 18443), (18444, 18444))


def test_an_attachment_survives_json() -> None:
    given = capture().attach(spec("chat-0", 8000, 9000))
    assert Attachment.parse(given.as_json()) == given


def test_addresses_of_a_range_are_given_out_until_there_are_none(tmp_path: Path) -> None:
    capture = LoopbackCapture(tmp_path, lambda: "s" * 43, "127.77.3.0/30")
    given = [capture.attach(spec(f"chat-{index}")).address for index in range(2)]
    assert given == ["127.77.3.1", "127.77.3.2"]
    with pytest.raises(CaptureError, match=r"no address for default/chat-2 in 127.77.3.0/30"):
        capture.attach(spec("chat-2"))


def test_what_was_given_out_of_another_range_is_not_kept(tmp_path: Path) -> None:
    capture = LoopbackCapture(tmp_path, lambda: "s" * 43, "10.80.1.0/24")
    assert not capture.keep("default/chat-0", Attachment("127.1.2.3"))
    assert capture.keep("default/chat-0", Attachment("10.80.1.7"))
    assert not LoopbackCapture(tmp_path, lambda: "s" * 43).keep("default/chat-0", Attachment("10.80.1.7"))


def test_two_meshes_that_start_at_once_are_not_given_the_same_port() -> None:
    door = spec("door-0", 18_311, role=WorkloadRole.GATEWAY)
    one, other = capture(), capture(Path("/elsewhere/.headrace"))
    first, second = one.attach(door), other.attach(door)
    assert first.gateway_ports == ((18_311, 18_311),), "nobody listens on it yet, and it is taken all the same"
    assert second.gateway_ports == ((18_311, 18_312),)
    one.release(door.id)
    assert other.successor(door, replace(second, gateway_ports=())).gateway_ports == ((18_311, 18_311),)
    other.release(door.id)


def test_a_mesh_keeps_the_ports_that_it_gave() -> None:
    one = capture()
    before = one.attach(spec("chat-0"))
    assert one.attach(spec("chat-1")).app_ports != before.app_ports
    assert one.successor(spec("chat-0"), before).app_ports != before.app_ports, "the old process still serves"
    door = spec("door-0", 18_321, role=WorkloadRole.GATEWAY)
    ports = one.attach(door)
    assert one.successor(door, ports).gateway_ports == ports.gateway_ports
