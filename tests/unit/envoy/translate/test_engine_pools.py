"""A service whose Workloads name an engine is a pool by itself, unless somebody wrote how to balance it."""

from __future__ import annotations

import pytest
from tests.unit.envoy.translate.test_pools import (
    POLICY,
    SERVICE,
    filters,
    gateway,
    settings_of,
    sidecar,
    snapshot,
    translated,
)

from headrace.envoy.translate.pools import pool_name
from headrace.model.proxy import CaptureKind

HOST = "chat.default.svc.cluster.local"
WORKLOAD = """
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {name: chat}
spec: {command: [serve], engine: vllm, labels: {app: chat}, ports: [{name: http, port: 8000}]}
"""
PLAIN_RULE = SERVICE.replace("  trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}\n", "")


def test_an_engine_makes_a_pool_of_every_http_port_and_subset() -> None:
    found = settings_of(translated(snapshot(PLAIN_RULE, WORKLOAD), gateway()))
    assert set(found) == {f"outbound|8000|{subset}|{HOST}" for subset in ("", "v1", "v2")}
    assert list(found.values()) == [{"orca": True, "pool": f"{HOST}:8000"}] * 3


@pytest.mark.parametrize("engine", ["sglang", "tgi", "llamacpp", "openai"])
def test_engines_that_tell_no_load_in_headers_are_not_asked_there(engine: str) -> None:
    found = settings_of(translated(snapshot(PLAIN_RULE, WORKLOAD.replace("vllm", engine)), gateway()))
    assert list(found.values()) == [{"pool": f"{HOST}:8000"}] * 3


@pytest.mark.parametrize("proxy", [gateway(), sidecar(CaptureKind.LOOPBACK), sidecar(CaptureKind.TRANSPARENT)])
def test_every_way_in_has_the_filter(proxy: object) -> None:
    names = filters(translated(snapshot(PLAIN_RULE, WORKLOAD), proxy))  # type: ignore[arg-type]
    assert names and all("headrace.pool" in found for found in names.values())


def test_workloads_without_an_engine_make_no_pool() -> None:
    plain = translated(snapshot(PLAIN_RULE, WORKLOAD.replace("engine: vllm, ", "")), gateway())
    assert settings_of(plain) == {}
    assert all("headrace.pool" not in found for found in filters(plain).values())


def test_a_load_balancer_that_somebody_wrote_stays_unless_a_policy_asks_for_picking() -> None:
    assert settings_of(translated(snapshot(SERVICE, WORKLOAD), gateway())) == {}
    assert len(settings_of(translated(snapshot(SERVICE, WORKLOAD, POLICY), gateway()))) == 3


def test_a_subset_with_a_load_balancer_of_its_own_keeps_it() -> None:
    own = "{name: v2, labels: {version: v2}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}"
    rule = PLAIN_RULE.replace("{name: v2, labels: {version: v2}}", own)
    found = settings_of(translated(snapshot(rule, WORKLOAD), gateway()))
    assert set(found) == {f"outbound|8000|{subset}|{HOST}" for subset in ("", "v1")}


def test_a_host_that_is_longer_than_a_pools_name_may_be() -> None:
    host = ".".join(["a" * 60] * 4) + ".example"
    assert len(host) > 250
    assert pool_name("chat", 80) == "chat:80"
    long, other = pool_name(host, 65000), pool_name(host, 65001)
    assert len(long) <= 256 and long != other and long != pool_name(host + "x", 65000)
