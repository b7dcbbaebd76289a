"""What is added to a connection manager that leads to pools, and how long routes to pools wait."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as http_pb2
from tests.unit.envoy.translate.test_engine_pools import PLAIN_RULE, WORKLOAD
from tests.unit.envoy.translate.test_pools import POLICY, SERVICE, gateway, settings_of, sidecar, snapshot, translated

from headrace.envoy.resources import CLUSTER, LISTENER, ROUTE
from headrace.model.proxy import CaptureKind
from headrace.registry.snapshot import MeshSnapshot

CLAIM = POLICY.replace("admission: {", "admission: {fairness: {key: jwtClaim, name: team}, ")
CHAT = "chat.default.svc.cluster.local"


def manager(mesh: MeshSnapshot, module: bool = True) -> Any:
    (resource,) = translated(mesh, gateway(module)).of_type(LISTENER).values()
    found = hcm_pb2.HttpConnectionManager()
    assert listener_pb2.Listener.FromString(resource.body).filter_chains[0].filters[0].typed_config.Unpack(found)
    return found


def test_a_clients_own_overflow_header_is_taken_off_before_routing() -> None:
    (extension,) = manager(snapshot(SERVICE, POLICY)).early_header_mutation_extensions
    config = header_mutation_pb2.HeaderMutation()
    assert extension.typed_config.Unpack(config)
    assert [item.remove for item in config.mutations] == ["x-headrace-overflow"]
    assert not manager(snapshot(SERVICE)).early_header_mutation_extensions
    assert not manager(snapshot(SERVICE, POLICY), module=False).early_header_mutation_extensions


def test_claims_are_put_where_the_module_reads_them_only_where_they_tell_tenants_apart() -> None:
    names = [item.name for item in manager(snapshot(SERVICE, CLAIM)).http_filters]
    assert names[-3:] == ["headrace.claims", "headrace.pool", "envoy.filters.http.router"]
    config = set_filter_state_pb2.Config()
    assert manager(snapshot(SERVICE, CLAIM)).http_filters[-3].typed_config.Unpack(config)
    (value,) = config.on_request_headers
    assert (value.object_key, value.factory_key, value.skip_if_empty) == ("headrace.claims", "envoy.string", True)
    operator = "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:payload)%"
    assert value.format_string.text_format_source.inline_string == operator
    assert "headrace.claims" not in [item.name for item in manager(snapshot(SERVICE, POLICY)).http_filters]


def test_the_filter_that_speaks_to_waiting_clients_stands_before_the_pools() -> None:
    names = [item.name for item in manager(snapshot(SERVICE, CLAIM + "  timeouts: {keepalive: 10s}\n")).http_filters]
    assert names[-4:] == ["headrace.claims", "headrace.keepalive", "headrace.pool", "envoy.filters.http.router"]
    assert "headrace.keepalive" not in [item.name for item in manager(snapshot(SERVICE, CLAIM)).http_filters]


@pytest.mark.parametrize(("fairness", "told"), [("identity", {"identity": True}), ("jwtClaim", {"claim": "team"})])
def test_the_module_is_told_what_tells_tenants_apart(fairness: str, told: dict[str, Any]) -> None:
    policy = CLAIM if fairness == "jwtClaim" else CLAIM.replace("jwtClaim, name: team", "identity")
    for settings in settings_of(translated(snapshot(SERVICE, policy), gateway())).values():
        assert settings["admission"]["tenant"] == told


def test_bounds_of_a_tenant() -> None:
    policy = CLAIM.replace("name: team", "name: team, tenantQueue: {depth: 3, tokens: 90}, tokenCost: 0")
    (admission, *_) = (
        item["admission"] for item in settings_of(translated(snapshot(SERVICE, policy), gateway())).values()
    )
    assert (admission["tenant_limits"], admission["token_cost"]) == ({"requests": 3, "tokens": 90}, 0.0)


def log_fields(*texts: str, encoding: str = "JSON", text: str = "") -> list[str]:
    mesh = snapshot(SERVICE, *texts)
    log = replace(mesh.mesh, access_log_file="/dev/stdout", access_log_encoding=encoding, access_log_format=text)
    mesh = replace(mesh, mesh=log)
    found = file_pb2.FileAccessLog()
    assert manager(mesh).access_log[0].typed_config.Unpack(found)
    return list(found.log_format.json_format)


def test_the_default_json_access_log_tells_of_pools() -> None:
    added = set(log_fields(POLICY)) - set(log_fields())
    assert added >= {"pool", "queue_ms", "ttft_ms", "tokens_in", "tokens_out", "outcome"}
    assert log_fields(POLICY, text='{"path": "%REQ(:PATH)%"}') == ["path"]
    assert log_fields(POLICY, encoding="TEXT") == []


def upstream_filters(*texts: str) -> dict[str, list[str]]:
    found = {}
    for name, resource in translated(snapshot(SERVICE, *texts), gateway()).of_type(CLUSTER).items():
        options = http_pb2.HttpProtocolOptions()
        cluster = cluster_pb2.Cluster.FromString(resource.body)
        for packed in cluster.typed_extension_protocol_options.values():
            assert packed.Unpack(options)
        if options.http_filters:
            found[name] = [item.name for item in options.http_filters]
    return found


def test_answers_are_withheld_only_where_requests_may_be_sent_again() -> None:
    wanted = ["headrace.attempt", "envoy.filters.http.upstream_codec"]
    again = POLICY + "  retries: {attempts: 1}\n"
    assert upstream_filters(again) == {f"outbound|8000|{subset}|{CHAT}": wanted for subset in ("", "v1", "v2")}
    assert {item["resend"] for item in settings_of(translated(snapshot(SERVICE, again), gateway())).values()} == {1}
    for policy in (POLICY, POLICY + "  retries: {attempts: 0}\n"):
        assert upstream_filters(policy) == {}


def times(*texts: str) -> tuple[int, int]:
    """Total and idle seconds of the default route to chat."""
    resources = translated(snapshot(PLAIN_RULE, *texts), sidecar(CaptureKind.LOOPBACK))
    table = route_pb2.RouteConfiguration.FromString(resources.of_type(ROUTE)["http_proxy"].body)
    (action,) = [host.routes[0].route for host in table.virtual_hosts if host.name == f"{CHAT}:8000"]
    return action.timeout.seconds, action.idle_timeout.seconds


def test_timers_of_envoy_leave_requests_alone_that_the_mesh_holds() -> None:
    queue = "apiVersion: headrace.dev/v1alpha1\nkind: InferencePolicy\nmetadata: {name: chat}\nspec:\n"
    queue += "  targetRefs: [{kind: Service, name: chat}]\n"
    held = queue + "  admission: {requestsPerSecond: 1, queue: {depth: 9, time: 20m}}\n"
    patient = queue + "  timeouts: {firstToken: 400s, total: 2000s}\n"
    assert times() == (0, 0)
    assert times(WORKLOAD) == (600, 300)
    assert times(WORKLOAD, held) == (600, 300 + 1200)
    assert times(WORKLOAD, patient) == (2000, 2000)
    assert times(patient) == (2000, 0)
