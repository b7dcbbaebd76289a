"""Which DestinationRules of one namespace speak for a caller."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.envoy.translate.outbound_rig import Rig
from tests.unit.registry.meshes import Mesh, rule, service, sidecar, subset, workload

from headrace.envoy.visibility import speaking_rules
from headrace.model.destination import DestinationRule, LbPolicy, LoadBalancer, TrafficPolicy


def named(rules: list[DestinationRule]) -> list[str]:
    return [item.meta.name for item in rules]


def speaking(*rules: DestinationRule, namespace: str = "default", **labels: str) -> list[str]:
    return named(speaking_rules(rules, namespace, labels))


def test_rules_exported_alike_speak_together() -> None:
    assert speaking(rule("chat", name="a"), rule("chat", name="b")) == ["a", "b"]


def test_a_rule_exported_wider_joins_and_one_exported_otherwise_stands_by_itself() -> None:
    narrow, wide = rule("chat", name="a", export_to=(".",)), rule("chat", name="b", export_to=(".", "other"))
    assert speaking(narrow, wide) == ["a", "b"]
    assert speaking(wide, narrow) == ["a"]
    assert speaking(wide, narrow, rule("chat", name="c")) == ["c"]


def test_a_private_rule_for_all_joins_those_for_some() -> None:
    mine = replace(rule("chat", name="mine"), workload_selector={"app": "client"})
    private = rule("chat", name="private", export_to=(".",))
    assert speaking(mine, private, app="client") == ["mine", "private"]
    assert speaking(mine, private, app="other") == ["private"]


def test_a_rule_for_the_callers_workload_comes_first() -> None:
    mine = replace(rule("chat", name="mine"), workload_selector={"app": "client"})
    other = replace(rule("chat", name="other"), workload_selector={"app": "other"})
    everybody = rule("chat", name="everybody")
    rules = (everybody, other, mine)
    assert speaking(*rules, app="client", tier="x") == ["mine"]
    assert speaking(*rules, app="third") == ["everybody"]
    assert speaking(*rules, namespace="elsewhere", app="client") == ["everybody"]
    assert speaking(other, mine, app="third") == []


def test_each_workload_gets_its_own_rule() -> None:
    random = TrafficPolicy(LoadBalancer(LbPolicy.RANDOM))
    batch = replace(rule("chat", subset("v1"), policy=random, name="batch"), workload_selector={"tier": "batch"})
    rig = Rig(Mesh().put(service("chat"), workload("chat"), rule("chat"), batch))
    plain, slow = rig.clusters(sidecar(app="a", tier="live")), rig.clusters(sidecar(app="a", tier="batch"))
    whole, part = "outbound|8000||chat.default.svc.cluster.local", "outbound|8000|v1|chat.default.svc.cluster.local"
    assert (part in plain, part in slow) == (False, True)
    assert plain[whole].lb_policy != slow[whole].lb_policy
    assert rig.view(sidecar(app="a")).scope.targets is rig.view(sidecar(app="b")).scope.targets
