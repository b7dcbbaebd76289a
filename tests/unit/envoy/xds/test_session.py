"""A session as a script: what the client asks and is published, and what it is sent, in order."""

from __future__ import annotations

import sys

import pytest
from envoy.service.discovery.v3 import discovery_pb2
from tests.unit.envoy.xds.xds_client import Client, ManualClock, parse, resource_set

from headrace.envoy.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, ResourceSet, XdsResource
from headrace.envoy.xds.assembly import Assembler
from headrace.envoy.xds.session import MAX_REQUEST_BYTES, ProtocolError, Session


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def client(clock: ManualClock) -> Client:
    return Client.connect(clock)


def started(client: Client) -> Client:
    """A client with cluster a, its endpoints, listener l and route r, all acknowledged."""
    client.publish(resource_set(cds={"a": "1"}, eds={"a": "e1"}, lds={"l": "1"}, rds={"r": "1"}))
    client.ask(CLUSTER).ask(ENDPOINT, ["a"]).take()
    client.ack().ask(LISTENER).ask(ROUTE, ["r"]).take()
    client.ack()
    assert client.take() == []
    client.clock.time += 1
    return client


def versions(*bodies: tuple[str, str]) -> dict[str, str]:
    made = resource_set(cds=dict(bodies)).of_type(CLUSTER)
    return {name: resource.version for name, resource in made.items()}


def test_nothing_is_sent_before_something_is_published(client: Client) -> None:
    assert client.ask(CLUSTER).take() == []
    assert client.publish(resource_set(cds={"a": "1"})).take() == ["CDS a=1"]


@pytest.mark.parametrize("names", [[], ["*"]])
def test_a_wildcard_gets_everything_in_sorted_order(client: Client, names: list[str]) -> None:
    client.publish(resource_set(cds={"b": "2", "a": "1"}))
    assert client.ask(CLUSTER, names).take() == ["CDS a=1 b=2"]
    assert client.ack().take() == []


def test_a_wildcard_without_resources_is_answered_once_so_that_the_client_goes_on(client: Client) -> None:
    client.publish(resource_set())
    assert client.ask(CLUSTER).take() == ["CDS"]
    assert client.ack().take() == []
    assert client.publish(resource_set()).take() == []


def test_named_resources_are_told_and_those_that_do_not_exist_are_removed(client: Client) -> None:
    client.publish(resource_set(eds={"a": "1", "b": "2"}))
    assert client.ask(ENDPOINT, ["a", "ghost"]).take() == ["EDS a=1 -ghost"]
    client.ack()
    assert client.publish(resource_set(eds={"a": "1", "b": "3"})).take() == []
    assert client.publish(resource_set(eds={"a": "1", "ghost": "boo"})).take() == ["EDS ghost=boo"]


def test_an_empty_first_request_is_a_wildcard_for_clusters_and_listeners_only(client: Client) -> None:
    client.publish(resource_set(eds={"a": "1"}, rds={"r": "1"}))
    assert client.ask(ENDPOINT).ask(ROUTE).take() == []
    assert client.ask(ENDPOINT, ["a"]).take() == ["EDS a=1"]


def test_a_type_that_is_not_served_has_no_resources(client: Client) -> None:
    client.publish(resource_set(cds={"a": "1"}))
    assert client.ask(SECRET, ["default"]).take() == [f"{SECRET} -default"]


def test_subscribing_again_tells_again(client: Client) -> None:
    client.publish(resource_set(eds={"a": "1"}))
    client.ask(ENDPOINT, ["a"]).take()
    client.ack()
    assert client.ask(ENDPOINT, ["a"]).take() == ["EDS a=1"]


def test_after_unsubscribing_nothing_comes(client: Client) -> None:
    client.publish(resource_set(eds={"a": "1", "b": "1"}))
    client.ask(ENDPOINT, ["a", "b"]).take()
    client.ack().ask(ENDPOINT, unsubscribe=["a"])
    assert client.publish(resource_set(eds={"a": "2", "b": "2"})).take() == ["EDS b=2"]


def test_unsubscribing_a_name_that_the_wildcard_covers_tells_it_again(client: Client) -> None:
    client.publish(resource_set(cds={"a": "1"}))
    client.ask(CLUSTER, ["*", "a", "ghost"]).take()
    client.ack()
    assert client.ask(CLUSTER, unsubscribe=["a"]).take() == ["CDS a=1"]
    client.ack()
    assert client.ask(CLUSTER, unsubscribe=["*"]).publish(resource_set(cds={"a": "2"})).take() == []


def test_only_what_changed_is_sent(client: Client) -> None:
    client.publish(resource_set(lds={"a": "1", "b": "1", "c": "1"})).ask(LISTENER).take()
    client.ack()
    assert client.publish(resource_set(lds={"a": "1", "b": "2", "d": "1"})).take() == ["LDS b=2 d=1 -c"]


def test_one_response_at_a_time_and_the_newest_wins(client: Client) -> None:
    client.publish(resource_set(eds={"a": "1"})).ask(ENDPOINT, ["a"]).take()
    for body in "234":
        assert client.publish(resource_set(eds={"a": body})).take() == []
    assert client.ack().take() == ["EDS a=4"]


def test_a_client_that_does_not_answer_is_sent_the_newest_after_a_while(client: Client, clock: ManualClock) -> None:
    client.publish(resource_set(eds={"a": "1"})).ask(ENDPOINT, ["a"])
    clock.time += 1
    client.take()
    assert client.publish(resource_set(eds={"a": "2"})).take() == []
    assert client.session.wake_at() == clock.time + 2.0
    clock.time += 2.0
    assert client.take() == ["EDS a=2"]
    assert client.session.wake_at() is None
    assert not client.session.settled(2)
    assert client.ack().take() == []
    assert client.session.settled(2)


def test_a_response_that_was_never_sent_cannot_be_answered(client: Client) -> None:
    client.publish(resource_set(eds={"a": "1"})).ask(ENDPOINT, ["a"]).take()
    stale = discovery_pb2.DeltaDiscoveryRequest(type_url=ENDPOINT, response_nonce="from another stream")
    client.session.receive(stale.SerializeToString())
    assert client.session.status()[0].pending == 1


# order


def test_additions_go_out_in_order_and_routes_wait_until_the_clusters_are_warm(client: Client) -> None:
    started(client)
    client.publish(
        resource_set(cds={"a": "1", "b": "1"}, eds={"a": "e1", "b": "e1"}, lds={"l": "2"}, rds={"r": "to b"})
    )
    assert client.take() == ["CDS b=1"]
    assert client.ask(ENDPOINT, ["b"]).take() == ["EDS b=e1"]
    assert client.ack("EDS").take() == []
    assert client.ack("CDS").take() == ["LDS l=2", "RDS r=to b"]


def test_a_cluster_that_never_warms_holds_routes_up_for_a_while_only(client: Client, clock: ManualClock) -> None:
    started(client)
    client.publish(resource_set(cds={"a": "1", "slow": "1"}, eds={"a": "e1"}, lds={"l": "1"}, rds={"r": "2"}))
    assert client.take() == ["CDS slow=1"]
    clock.time += 1.9
    assert client.take() == []
    clock.time += 0.1
    assert client.take() == ["RDS r=2"]
    client.ack("RDS")
    client.publish(resource_set(cds={"a": "1", "slow": "1"}, eds={"a": "e1"}, lds={"l": "1"}, rds={"r": "3"}))
    assert client.take() == ["RDS r=3"]


def test_a_cluster_is_removed_after_the_routes_have_moved_and_its_endpoints_after_it(client: Client) -> None:
    started(client)
    client.publish(resource_set(cds={"b": "1"}, eds={"b": "e1"}, lds={"l": "1"}, rds={"r": "to b"}))
    assert client.take() == ["CDS b=1"]
    client.ask(ENDPOINT, ["b"]).take()
    assert client.ack().take() == ["RDS r=to b"]
    assert client.take() == []
    assert client.ack("RDS").take() == ["CDS -a"]
    assert client.take() == []
    assert client.ack("CDS").ask(ENDPOINT, unsubscribe=["a"]).take() == []
    assert client.session.settled(client.published)


def test_a_cluster_that_comes_back_before_its_removal_stays(client: Client) -> None:
    started(client)
    client.publish(resource_set(cds={}, eds={}, lds={"l": "1"}, rds={"r": "2"}))
    assert client.take() == ["RDS r=2"]
    client.publish(resource_set(cds={"a": "1"}, eds={"a": "e1"}, lds={"l": "1"}, rds={"r": "2"}))
    assert client.take() == []
    assert client.ack().take() == []
    assert client.session.settled(client.published)


def test_a_listener_gives_up_its_address_in_the_response_that_brings_its_successor(client: Client) -> None:
    started(client)
    client.publish(resource_set(cds={"a": "1"}, eds={"a": "e1"}, lds={"l2": "1"}, rds={"r": "1"}))
    assert client.take() == ["LDS l2=1 -l"]


def test_a_route_is_removed_after_its_listener(client: Client) -> None:
    started(client)
    client.publish(resource_set(cds={"a": "1"}, eds={"a": "e1"}))
    assert client.take() == ["LDS -l"]
    assert client.ack().take() == ["RDS -r"]


def test_clusters_stay_while_the_client_refuses_the_routes_that_leave_them(client: Client) -> None:
    started(client)
    client.publish(resource_set(cds={"b": "1"}, eds={"b": "e1"}, lds={"l": "1"}, rds={"r": "bad"}))
    client.take()
    client.ask(ENDPOINT, ["b"]).take()
    assert client.ack().take() == ["RDS r=bad"]
    assert client.nack("no such thing").take() == []
    assert client.session.settled(client.published)
    client.publish(resource_set(cds={"b": "1"}, eds={"b": "e1"}, lds={"l": "1"}, rds={"r": "good"}))
    assert client.take() == ["RDS r=good"]
    assert client.ack().take() == ["CDS -a"]


# endpoints after clusters


def test_a_changed_cluster_is_followed_by_its_endpoints(client: Client) -> None:
    started(client)
    client.publish(resource_set(cds={"a": "2"}, eds={"a": "e1"}, lds={"l": "1"}, rds={"r": "1"}))
    assert client.take() == ["CDS a=2", "EDS a=e1"]


def test_endpoints_of_a_changed_cluster_do_not_wait_for_an_answer(client: Client) -> None:
    started(client)
    client.publish(resource_set(cds={"a": "1"}, eds={"a": "e2"}, lds={"l": "1"}, rds={"r": "1"}))
    assert client.take() == ["EDS a=e2"]
    client.publish(resource_set(cds={"a": "2"}, eds={"a": "e2"}, lds={"l": "1"}, rds={"r": "1"}))
    assert client.take() == ["CDS a=2", "EDS a=e2"]


def test_a_changed_cluster_without_endpoints_is_told_that_there_are_none(client: Client) -> None:
    client.publish(resource_set(cds={"a": "1"})).ask(CLUSTER).take()
    assert client.ask(ENDPOINT, ["a"]).take() == ["EDS -a"]
    client.ack()
    assert client.publish(resource_set(cds={"a": "2"})).take() == ["CDS a=2", "EDS -a"]


def test_endpoints_follow_a_cluster_that_changed_while_the_client_was_away(client: Client) -> None:
    """The client asks for endpoints before it reads the changed cluster, and says that it has them."""
    known = resource_set(eds={"a": "e1"}).of_type(ENDPOINT)["a"].version
    client.publish(resource_set(cds={"a": "2"}, eds={"a": "e1"}))
    assert client.ask(CLUSTER, versions=versions(("a", "1"))).take() == ["CDS a=2"]
    assert client.ask(ENDPOINT, ["a"], versions={"a": known}).take() == ["EDS a=e1"]
    assert client.ack().take() == []


# reconnecting


def test_a_client_that_has_everything_is_sent_nothing(client: Client) -> None:
    resources = resource_set(cds={"a": "1"}, eds={"a": "e1"}, lds={"l": "1"}, rds={"r": "1"})
    client.publish(resources)
    for type_url, names in ((CLUSTER, []), (ENDPOINT, ["a"]), (LISTENER, []), (ROUTE, ["r"])):
        held = {name: resource.version for name, resource in resources.of_type(type_url).items()}
        client.ask(type_url, names, versions=held)
    assert client.take() == []
    assert client.session.settled(client.published)
    assert all(status.in_sync and status.acknowledged == status.published for status in client.session.status())


def test_a_client_that_reconnects_is_sent_what_changed_meanwhile(client: Client, clock: ManualClock) -> None:
    client.publish(resource_set(cds={"a": "2", "b": "1", "c": "1"}))
    held = versions(("a", "1"), ("b", "1"), ("old", "1"))
    assert client.ask(CLUSTER, versions=held).take() == ["CDS a=2 c=1"]
    assert client.ack().take() == []
    assert client.session.wake_at() == clock.time + 0.2
    clock.time += 0.2
    assert client.take() == ["CDS -old"]


def test_nothing_is_removed_before_a_client_that_reconnects_has_told_what_it_uses(
    client: Client, clock: ManualClock
) -> None:
    client.publish(resource_set(cds={"b": "1"}, eds={"b": "e1"}, lds={"l": "1"}, rds={"r": "to b"}))
    assert client.ask(CLUSTER, versions=versions(("a", "1"), ("b", "1"))).take() == []
    clock.time += 0.1
    assert client.ask(ROUTE, ["r"], versions={"r": "to a"}).take() == ["RDS r=to b"]
    clock.time += 0.1
    assert client.take() == []
    assert client.ack().take() == ["CDS -a"]


# refusals


def test_a_refusal_is_kept_and_not_retried_and_the_next_change_is_sent(client: Client, clock: ManualClock) -> None:
    client.publish(resource_set(cds={"a": "bad"})).ask(CLUSTER).take()
    clock.time += 0.25
    assert client.nack("a: unknown\nfield\n").take() == []
    (status,) = client.session.status()
    (nack,) = status.nacks
    assert (nack.message, nack.when, nack.resources) == ("a: unknown field", clock.now(), ("a",))
    assert not status.in_sync
    assert status.acknowledged == ""
    assert status.push_ms == pytest.approx(250)
    assert client.publish(resource_set(cds={"a": "bad"})).take() == []
    assert client.publish(resource_set(cds={"a": "good"})).take() == ["CDS a=good"]
    assert client.ack().take() == []
    (status,) = client.session.status()
    assert status.in_sync
    assert status.nacks == ()


def test_good_resources_get_through_beside_a_bad_one(client: Client) -> None:
    bodies = {"a": "1", "b": "bad", "c": "1", "d": "1", "e": "1"}
    client.publish(resource_set(rds=bodies)).ask(ROUTE, bodies).take()
    accepted: set[str] = set()
    for _ in range(20):
        if not client.open:
            break
        (answer,) = client.open
        if "b" in answer.resources:
            client.nack("b is bad")
        else:
            accepted |= set(answer.resources)
            client.ack()
        client.take()
    assert accepted == {"a", "c", "d", "e"}
    (status,) = client.session.status()
    assert [nack.resources for nack in status.nacks] == [("b",)]
    assert client.session.settled(client.published)
    assert client.publish(resource_set(rds=bodies | {"d": "2"})).take() == ["RDS d=2"]
    client.ack().take()
    assert client.publish(resource_set(rds=bodies | {"b": "2", "d": "2"})).take() == ["RDS b=2"]
    client.ack().take()
    assert client.session.status()[0].nacks == ()


def test_a_refused_resource_that_disappears_is_no_longer_held_against_the_client(client: Client) -> None:
    client.publish(resource_set(lds={"l": "bad"})).ask(LISTENER).take()
    client.nack("no").publish(resource_set())
    assert client.take() == ["LDS -l"]
    client.ack().take()
    (status,) = client.session.status()
    assert status.in_sync
    assert status.nacks == ()


def test_a_very_long_refusal_is_cut(client: Client) -> None:
    client.publish(resource_set(lds={"l": "bad"})).ask(LISTENER).take()
    client.nack("x" * 100_000)
    assert len(client.session.status()[0].nacks[0].message) == 4096


# sharing, and hostile clients


def test_equal_clients_share_the_work(clock: ManualClock) -> None:
    assembler = Assembler()
    clients = [Client.connect(clock, assembler) for _ in range(50)]
    first = resource_set(cds={f"c{n}": "1" for n in range(100)}, lds={"l": "1"})
    second = resource_set(cds={f"c{n}": "2" if n == 7 else "1" for n in range(100)}, lds={"l": "1"})
    for client in clients:
        client.publish(first).ask(CLUSTER).take()
        client.ack().take()
    assert (assembler.wrapped, assembler.compared) == (100, 1)
    for client in clients:
        assert client.publish(second).take() == ["CDS c7=2"]
    assert (assembler.wrapped, assembler.compared) == (101, 2)


def test_secrets_are_not_kept_for_others(clock: ManualClock) -> None:
    assembler = Assembler()
    client = Client.connect(clock, assembler)
    secret = XdsResource.of(SECRET, "default", b"the private key")
    client.publish(ResourceSet.collect([secret])).ask(SECRET, ["default"])
    assert client.take() == [f"{SECRET} default=the private key"]
    client.ack().publish(resource_set()).take()
    client.ack().take()
    assert sys.getrefcount(secret) == 2, "the variable and the argument"


def test_every_response_of_a_stream_has_its_own_nonce(client: Client) -> None:
    client.publish(resource_set(cds={"a": "1"}, eds={"a": "1"})).ask(CLUSTER).ask(ENDPOINT, ["a"])
    nonces = [parse(response.message()).nonce for response in client.session.outgoing()]
    assert len(set(nonces)) == len(nonces) == 2


def test_what_is_no_request_ends_the_stream(clock: ManualClock) -> None:
    session = Session(Assembler(), clock)
    for message in (b"\xff\xff", b"", b"\0" * (MAX_REQUEST_BYTES + 1)):
        with pytest.raises(ProtocolError):
            session.receive(message)


def test_names_and_types_are_bounded(client: Client) -> None:
    with pytest.raises(ProtocolError, match="at most"):
        client.ask(ENDPOINT, (f"n{number}" for number in range(100_001)))
    with pytest.raises(ProtocolError, match="type URL"):
        for number in range(100):
            client.ask(f"type.example/{number}", ["a"])
