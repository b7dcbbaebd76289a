"""Which endpoints a caller prefers, by locality and by labels."""

from __future__ import annotations

import pytest
from tests.unit.envoy.translate.samples import meta

from headrace.envoy.translate.localities import Caller, caller_at, caller_for, groups_of, weighs_localities
from headrace.model.destination import (
    BY_DISTANCE,
    DestinationRule,
    LoadBalancer,
    LocalityLb,
    PortPolicy,
    TrafficPolicy,
)
from headrace.model.locality import NETWORK, TOPOLOGY, locality_of
from headrace.model.service import Endpoint

REGION, ZONE, SUBZONE = TOPOLOGY
HERE = caller_at(tuple(zip(TOPOLOGY, ("eu", "a", "1"), strict=True)))


def at(locality: str, weight: int = 0, network: str = "", **labels: str) -> Endpoint:
    return Endpoint("10.0.0.1", 1, 1, tuple(sorted(labels.items())), locality=locality, weight=weight, network=network)


def ranks(
    setting: LocalityLb | None, *endpoints: Endpoint, caller: Caller = HERE, detects: bool = True
) -> list[object]:
    return [(group.locality, group.priority, group.weight) for group in groups_of(endpoints, caller, setting, detects)]


NEAR = (at("eu/a/1", 2), at("eu/a/2"), at("eu/b/1"), at("us/a/1"), at("asia/a/1"), at(""))


def test_nearer_endpoints_come_first_without_gaps() -> None:
    found = ranks(BY_DISTANCE, *NEAR)
    assert found == [
        ("", 3, 1),
        ("asia/a/1", 3, 1),
        ("eu/a/1", 0, 2),
        ("eu/a/2", 1, 1),
        ("eu/b/1", 2, 1),
        ("us/a/1", 3, 1),
    ]
    assert ranks(BY_DISTANCE, at("eu/b/1"), at("us/a/1")) == [("eu/b/1", 0, 1), ("us/a/1", 1, 1)]


@pytest.mark.parametrize(
    ("setting", "caller", "detects"),
    [(BY_DISTANCE, HERE, False), (None, HERE, True), (BY_DISTANCE, Caller(), True)],
    ids=["nobody notices sick ones", "switched off", "unknown caller"],
)
def test_nobody_comes_first(setting: LocalityLb | None, caller: Caller, detects: bool) -> None:
    found = groups_of(NEAR, caller, setting, detects)
    assert {group.priority for group in found} == {0}


def test_a_region_fails_over_to_the_one_that_is_named() -> None:
    setting = LocalityLb(failover=(("eu", "us"), ("us", "asia")))
    found = {group.locality: group.priority for group in groups_of(NEAR, HERE, setting, True)}
    assert (found["us/a/1"], found["asia/a/1"], found[""]) == (3, 4, 4)


def test_localities_share_as_they_are_told() -> None:
    setting = LocalityLb(distribute=(("us/*", (("us/*", 100),)), ("eu/a/*", (("eu/a/*", 70), ("us", 30)))))
    assert ranks(setting, *NEAR, detects=False) == [("eu/a/1", 0, 47), ("eu/a/2", 0, 24), ("us/a/1", 0, 30)]
    other = Caller("eu/b/1")
    assert len(ranks(setting, *NEAR, caller=other)) == len(NEAR)


def test_endpoints_that_share_labels_come_first() -> None:
    caller = caller_at((("gpu", "h100"), (REGION, "eu")))
    setting = LocalityLb(failover_priority=(REGION, "gpu", "tier=gold"))
    found = groups_of(
        (at("eu", gpu="h100", tier="gold"), at("eu", gpu="h100"), at("eu", gpu="l4", tier="gold"), at("us")),
        caller,
        setting,
        True,
    )
    assert [(group.locality, group.priority, len(group.endpoints)) for group in found] == [
        ("eu", 0, 1),
        ("eu", 1, 1),
        ("eu", 2, 1),
        ("us", 3, 1),
    ]


def test_another_network_comes_behind_and_the_other_labels_still_count() -> None:
    caller = caller_at(((NETWORK, "n1"), ("gpu", "h100")))
    setting = LocalityLb(failover_priority=(NETWORK, "gpu"))
    found = groups_of(
        (at("", network="n1", gpu="l4"), at("", network="n2", gpu="h100"), at("", network="n2", gpu="l4")),
        caller,
        setting,
        True,
    )
    assert [(group.endpoints[0].network, group.priority) for group in found] == [("n1", 0), ("n2", 1), ("n2", 2)]


def test_labels_before_regions() -> None:
    caller = caller_at((("gpu", "h100"), (REGION, "eu")))
    setting = LocalityLb(failover_priority=("gpu",), failover=(("eu", "us"),))
    found = groups_of(
        (at("asia", gpu="h100"), at("eu", gpu="l4"), at("us", gpu="h100"), at("us", gpu="l4")), caller, setting, True
    )
    assert {(group.locality, group.endpoints[0].labels[0][1]): group.priority for group in found} == {
        ("us", "h100"): 0,
        ("asia", "h100"): 1,
        ("eu", "l4"): 2,
        ("us", "l4"): 3,
    }


def test_zone_aware_settings_rank_regions_only() -> None:
    setting = LocalityLb(zone_aware=True, failover=(("eu", "us"),))
    found = {group.locality: group.priority for group in groups_of(NEAR, HERE, setting, False)}
    assert found == {"eu/a/1": 0, "eu/a/2": 0, "eu/b/1": 0, "us/a/1": 1, "asia/a/1": 2, "": 2}
    off = LocalityLb(zone_aware=True, enabled=False)
    assert {group.priority for group in groups_of(NEAR, HERE, off, True)} == {0}


def test_weights_of_localities_count_where_something_is_said_of_them() -> None:
    assert not weighs_localities(BY_DISTANCE, True)
    assert weighs_localities(LocalityLb(distribute=(("*", (("*", 100),)),)), False)
    assert weighs_localities(LocalityLb(failover=(("a", "b"),)), True)
    assert not weighs_localities(LocalityLb(failover=(("a", "b"),)), False)


def test_callers_differ_only_by_what_a_rule_asks_for() -> None:
    caller = caller_at((("app", "x"), ("gpu", "h100"), (REGION, "eu")))
    by_gpu = LoadBalancer(locality=LocalityLb(failover_priority=("gpu=l4", REGION)))
    rule = DestinationRule(
        meta("networking.istio.io/DestinationRule", "a"), "a", TrafficPolicy(ports=(PortPolicy(1, by_gpu),))
    )
    assert caller_for(caller, rule, BY_DISTANCE).labels == (("gpu", "h100"), (REGION, "eu"))
    assert caller_for(caller, None, BY_DISTANCE) == Caller("eu")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({}, ""),
        ({"istio-locality": "eu.a.1", REGION: "us"}, "eu/a/1"),
        ({"topology.istio.io/locality": "eu.a", "istio-locality": "us"}, "eu/a"),
        ({"istio-locality": "eu/a.b"}, "eu/a.b"),
        ({REGION: "us"}, "us"),
        ({REGION: "us", ZONE: "z", SUBZONE: "s"}, "us/z/s"),
    ],
)
def test_where_labels_say_something_runs(labels: dict[str, str], expected: str) -> None:
    assert locality_of(labels) == expected
