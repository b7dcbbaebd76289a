"""PeerAuthentication settled: mesh < namespace < workload, oldest first, ports of the workload."""

from __future__ import annotations

from tests.unit.registry.meshes import peer_authentication as policy

from headrace.model.security import MtlsMode
from headrace.registry.mtls import MtlsPolicy, settle

S, P, D, U = MtlsMode.STRICT, MtlsMode.PERMISSIVE, MtlsMode.DISABLE, MtlsMode.UNSET
ROOT = "istio-system"


def settled(*policies: object, **labels: str) -> MtlsPolicy:
    return settle(policies, ROOT, "default", labels or {"app": "chat"})  # type: ignore[arg-type]


def test_permissive_where_nobody_says_anything() -> None:
    assert settled() == MtlsPolicy(P)


def test_the_narrower_scope_wins() -> None:
    mesh = policy("mesh", S, namespace=ROOT)
    assert settled(mesh).mode is S
    space = policy("space", D)
    assert settled(mesh, space).mode is D
    own = policy("own", P, selector={"app": "chat"})
    assert settled(mesh, space, own).mode is P
    assert settled(mesh, space, own, app="other").mode is D


def test_unset_inherits() -> None:
    assert settled(policy("mesh", S, namespace=ROOT), policy("space", U)).mode is S


def test_the_oldest_of_a_scope_wins() -> None:
    assert settled(policy("a", S), policy("b", D)).mode is S


def test_a_selector_in_the_root_namespace_is_ignored() -> None:
    assert settled(policy("mesh", S, namespace=ROOT, selector={"app": "chat"})).mode is P


def test_another_namespace_does_not_count() -> None:
    assert settled(policy("other", S, namespace="elsewhere")).mode is P


def test_ports_differ_and_unset_ports_take_the_workloads_mode() -> None:
    own = policy("own", S, selector={"app": "chat"}, ports=((9000, D), (8000, U)))
    found = settled(own)
    assert found.ports == ((8000, S), (9000, D))
    assert (found.of_port(9000), found.of_port(8000), found.of_port(1)) == (D, S, S)


def test_ports_of_a_policy_without_selector_are_ignored() -> None:
    assert settled(policy("space", S, ports=((9000, D),))).ports == ()
