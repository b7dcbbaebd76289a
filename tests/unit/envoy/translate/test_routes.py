"""HTTP routes of VirtualServices: conditions, actions, order."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.route.v3 import route_components_pb2 as route_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from tests.unit.envoy.translate.outbound_rig import Rig
from tests.unit.registry.meshes import Mesh, port, rule, service, sidecar, subset, to, virtual_service, workload

from headrace.model.destination import ConsistentHash, LoadBalancer, PortPolicy, TrafficPolicy
from headrace.model.mesh import MeshConfig
from headrace.model.names import outbound_cluster
from headrace.model.proxy import Proxy
from headrace.model.traffic import (
    Cors,
    Destination,
    DirectResponse,
    Fault,
    HeaderOps,
    Headers,
    HttpMatch,
    HttpRoute,
    MatchKind,
    Mirror,
    Redirect,
    Retries,
    Rewrite,
    StringMatch,
)
from headrace.model.workload import Engine

HOST = "chat.default.svc.cluster.local"
EVERYWHERE = (to("chat"),)
NO_BODY = DirectResponse(200)
Code = route_pb2.RedirectAction


def exact(text: str) -> StringMatch:
    return StringMatch(MatchKind.EXACT, text)


def prefix(text: str) -> StringMatch:
    return StringMatch(MatchKind.PREFIX, text)


def regex(text: str) -> StringMatch:
    return StringMatch(MatchKind.REGEX, text)


def routes(*rules: HttpRoute, mesh: Mesh | None = None, proxy: Proxy | None = None) -> list[Any]:
    """The routes of `chat` on port 8000 with these rules."""
    mesh = mesh or Mesh().put(service("chat"))
    mesh.put(virtual_service("chat", *rules))
    return list(Rig(mesh).hosts(8000, proxy)[f"{HOST}:8000"].routes)


def one(**rule: Any) -> Any:
    """The only route of a rule, by default one that goes to `chat`."""
    answers = {"redirect", "direct_response", "route"} & set(rule)
    (found,) = routes(HttpRoute(**rule, **({} if answers else {"route": EVERYWHERE})))
    return found


def matched(**condition: Any) -> Any:
    return one(matches=(HttpMatch(**condition),)).match


class TestMatch:
    def test_nothing_is_everything(self) -> None:
        assert one().match.prefix == "/"

    def test_uri(self) -> None:
        assert matched(uri=exact("/a")).path == "/a"
        assert matched(uri=prefix("/a")).prefix == "/a"
        assert matched(uri=regex("/a.*")).safe_regex.regex == "/a.*"
        assert matched(uri=prefix("/a")).case_sensitive.value is True
        assert matched(uri=prefix("/a"), ignore_uri_case=True).case_sensitive.value is False

    def test_pseudo_headers_follow_the_headers(self) -> None:
        found = matched(
            method=exact("GET"),
            authority=prefix("chat"),
            scheme=exact("http"),
            headers=(("x-b", exact("1")), ("x-a", regex("a+"))),
        )
        assert [item.name for item in found.headers] == ["x-a", "x-b", ":method", ":authority", ":scheme"]
        assert found.headers[0].string_match.safe_regex.regex == "a+"
        assert found.headers[3].string_match.prefix == "chat"

    @pytest.mark.parametrize("kind", [StringMatch(MatchKind.PRESENT), regex("*")])
    def test_presence(self, kind: StringMatch) -> None:
        found = matched(headers=(("x-a", kind),), query_params=(("q", kind),))
        assert found.headers[0].present_match
        assert found.query_parameters[0].present_match

    def test_without_headers(self) -> None:
        found = matched(without_headers=(("x-a", exact("1")), ("x-b", StringMatch(MatchKind.PRESENT))))
        one_, two = found.headers
        assert (one_.invert_match, one_.treat_missing_header_as_empty) == (True, True)
        assert (two.invert_match, two.present_match, two.treat_missing_header_as_empty) == (True, True, False)

    def test_query_parameters(self) -> None:
        found = matched(query_params=(("b", exact("1")), ("a", prefix("x"))))
        assert [item.name for item in found.query_parameters] == ["a", "b"]
        assert found.query_parameters[1].string_match.exact == "1"


class TestKnownConditions:
    """What is known when translating decides there."""

    def names(self, *matches: HttpMatch, proxy: Proxy | None = None) -> list[str]:
        rules = [HttpRoute(name=str(at), matches=(item,), route=EVERYWHERE) for at, item in enumerate(matches)]
        return [item.name for item in routes(*rules, HttpRoute(name="rest", route=EVERYWHERE), proxy=proxy)]

    def test_port(self) -> None:
        assert self.names(HttpMatch(uri=prefix("/a"), port=8000), HttpMatch(uri=prefix("/b"), port=1)) == ["0", "rest"]

    def test_source_labels(self) -> None:
        match = HttpMatch(uri=prefix("/a"), source_labels=(("app", "client"), ("tier", "gold")))
        assert self.names(match, proxy=sidecar(app="client", tier="gold")) == ["0", "rest"]
        assert self.names(match, proxy=sidecar(app="client")) == ["rest"]

    def test_source_namespace(self) -> None:
        match = HttpMatch(uri=prefix("/a"), source_namespace="default")
        assert self.names(match) == ["0", "rest"]
        assert self.names(match, proxy=sidecar(namespace="other")) == ["rest"]

    def test_gateways_make_source_conditions_void(self) -> None:
        mesh = HttpMatch(uri=prefix("/a"), gateways=("mesh",), source_labels=(("app", "nobody"),))
        assert self.names(mesh, HttpMatch(uri=prefix("/b"), gateways=("default/gw",))) == ["0", "rest"]

    def test_a_rule_that_takes_everything_ends_the_list(self) -> None:
        found = routes(
            HttpRoute(name="a", matches=(HttpMatch(uri=prefix("/x")), HttpMatch(uri=prefix("/"))), route=EVERYWHERE),
            HttpRoute(name="b", route=EVERYWHERE),
        )
        assert [item.name for item in found] == ["a", "a"]

    def test_a_virtual_service_without_a_route_for_the_caller_leaves_the_default(self) -> None:
        nobody = HttpMatch(source_labels=(("app", "nobody"),))
        (found,) = routes(HttpRoute(matches=(nobody,), direct_response=NO_BODY))
        assert found.name == "default"


class TestDestinations:
    def test_a_lone_one_takes_everything_whatever_its_weight(self) -> None:
        assert one(route=(to("chat", "v1", 0),)).route.cluster == outbound_cluster(8000, "v1", HOST)

    def test_weights_leave_zero_out(self) -> None:
        found = one(route=(to("chat", "v1", 95), to("chat", "v2", 5), to("chat", "v3", 0))).route.weighted_clusters
        assert [(item.name, item.weight.value) for item in found.clusters] == [
            (outbound_cluster(8000, "v1", HOST), 95),
            (outbound_cluster(8000, "v2", HOST), 5),
        ]

    def test_port_written_then_the_only_one_then_the_listeners(self) -> None:
        mesh = Mesh().put(service("chat"), service("one", port(9000)), service("two", port(1), port(2)))
        found = routes(
            HttpRoute(matches=(HttpMatch(uri=prefix("/a")),), route=(to("one", port=7),)),
            HttpRoute(matches=(HttpMatch(uri=prefix("/b")),), route=(to("one"),)),
            HttpRoute(matches=(HttpMatch(uri=prefix("/c")),), route=(to("two"),)),
            HttpRoute(route=(to("unknown"),)),
            mesh=mesh,
        )
        assert [item.route.cluster.split("|")[1] for item in found] == ["7", "9000", "8000", "8000"]

    def test_decorator_and_metadata(self) -> None:
        found = one(route=(to("chat"),), matches=(HttpMatch(uri=prefix("/v1")),))
        assert found.decorator.operation == f"{HOST}:8000/v1*"
        assert found.metadata.filter_metadata["istio"]["config"].endswith("/virtual-service/chat")
        assert one(route=(to("chat", "v1", 1), to("chat", "v2", 1))).decorator.operation == "chat:8000/*"


class TestHeaders:
    ops = Headers(
        HeaderOps(set=(("x-b", "1"), ("x-a", "2")), add=(("x-c", "3"),), remove=("x-d", "host")),
        HeaderOps(set=(("y-a", "1"),), remove=("y-b",)),
    )

    def test_of_a_route(self) -> None:
        found = one(headers=self.ops)
        assert [(item.header.key, item.append_action) for item in found.request_headers_to_add] == [
            ("x-a", 2),
            ("x-b", 2),
            ("x-c", 0),
        ]
        assert list(found.request_headers_to_remove) == ["x-d"]
        assert [item.header.key for item in found.response_headers_to_add] == ["y-a"]
        assert list(found.response_headers_to_remove) == ["y-b"]

    def test_of_a_weighted_destination(self) -> None:
        first = to("chat", "v1", 1)
        destination = type(first)(first.destination, 1, Headers(HeaderOps(set=(("Host", "a"), ("x-a", "1")))))
        found = one(route=(destination, to("chat", "v2", 1))).route.weighted_clusters.clusters[0]
        assert [item.header.key for item in found.request_headers_to_add] == ["x-a"]
        assert found.host_rewrite_literal == "a"

    def test_host_of_the_route_beats_that_of_the_destination(self) -> None:
        own = type(EVERYWHERE[0])(EVERYWHERE[0].destination, 0, Headers(HeaderOps(set=(("host", "lower"),))))
        assert one(route=(own,)).route.host_rewrite_literal == "lower"
        upper = Headers(HeaderOps(set=((":authority", "upper"),)))
        assert one(route=(own,), headers=upper).route.host_rewrite_literal == "upper"


class TestRewrite:
    def test_prefix_and_authority(self) -> None:
        found = one(rewrite=Rewrite(uri="/v2", authority="other")).route
        assert (found.prefix_rewrite, found.host_rewrite_literal) == ("/v2", "other")

    def test_regex(self) -> None:
        found = one(rewrite=Rewrite(regex_match="^/a/(.*)", regex_rewrite=r"/b/\1")).route.regex_rewrite
        assert (found.pattern.regex, found.substitution) == ("^/a/(.*)", r"/b/\1")


class TestRedirect:
    def test_parts(self) -> None:
        found = one(redirect=Redirect(uri="/x", authority="a.example", scheme="https", port=8443, code=308)).redirect
        assert (found.path_redirect, found.host_redirect, found.scheme_redirect) == ("/x", "a.example", "https")
        assert (found.port_redirect, found.response_code) == (8443, Code.PERMANENT_REDIRECT)

    def test_the_usual_port_is_not_written(self) -> None:
        assert one(redirect=Redirect(scheme="https", port=443)).redirect.port_redirect == 0
        assert one(redirect=Redirect(port=80)).redirect.port_redirect == 0
        assert one(redirect=Redirect(scheme="https", port=80)).redirect.port_redirect == 80

    def test_of_the_prefix_only(self) -> None:
        found = one(redirect=Redirect(prefix_rewrite="/new")).redirect
        assert found.WhichOneof("path_rewrite_specifier") == "prefix_rewrite"
        assert found.prefix_rewrite == "/new"

    def test_port_of_the_request(self) -> None:
        assert one(redirect=Redirect(derive_port="FROM_REQUEST_PORT")).redirect.port_redirect == 8000
        assert one(redirect=Redirect(derive_port="FROM_PROTOCOL_DEFAULT")).redirect.port_redirect == 0

    @pytest.mark.parametrize(
        ("code", "expected"),
        [(301, Code.MOVED_PERMANENTLY), (302, Code.FOUND), (303, Code.SEE_OTHER), (307, Code.TEMPORARY_REDIRECT)],
    )
    def test_codes(self, code: int, expected: int) -> None:
        assert one(redirect=Redirect(uri="/", code=code)).redirect.response_code == expected


def test_direct_response() -> None:
    found = one(direct_response=DirectResponse(503, b"no")).direct_response
    assert (found.status, found.body.inline_bytes) == (503, b"no")
    assert not one(direct_response=NO_BODY).direct_response.HasField("body")


class TestRetries:
    def test_default(self) -> None:
        found = one().route.retry_policy
        assert found.num_retries.value == 2
        assert found.retry_on == "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
        assert not found.retriable_status_codes
        assert found.host_selection_retry_max_attempts == 5
        assert [item.name for item in found.retry_host_predicate] == ["envoy.retry_host_predicates.previous_hosts"]

    def test_the_meshs_default(self) -> None:
        mesh = Mesh(MeshConfig(default_http_retry=Retries(7))).put(service("chat"))
        (found,) = routes(HttpRoute(route=EVERYWHERE), mesh=mesh)
        assert found.route.retry_policy.num_retries.value == 7

    def test_zero_attempts_is_none(self) -> None:
        assert not one(retries=Retries(0)).route.HasField("retry_policy")

    def test_written(self) -> None:
        found = one(retries=Retries(3, 2.5, "5xx, 503,reset,999", True, False, 0.1)).route.retry_policy
        assert found.num_retries.value == 3
        assert found.retry_on == "5xx,reset,999,retriable-status-codes"
        assert list(found.retriable_status_codes) == [503]
        assert (found.per_try_timeout.seconds, found.per_try_timeout.nanos) == (2, 500_000_000)
        assert found.retry_priority.name == "envoy.retry_priorities.previous_priorities"
        assert not found.retry_host_predicate
        assert found.retry_back_off.base_interval.nanos == 100_000_000


class TestTimeouts:
    def seconds(self, found: Any) -> tuple[int, int, int]:
        action = found.route
        return action.timeout.seconds, action.max_grpc_timeout.seconds, action.idle_timeout.seconds

    def test_none_written_is_none(self) -> None:
        found = one()
        assert found.route.HasField("timeout")
        assert self.seconds(found) == (0, 0, 0)

    def test_written(self) -> None:
        assert self.seconds(one(timeout=5.0)) == (5, 5, 0)

    def engine(self, *rules: HttpRoute, engine: Engine = Engine.VLLM) -> list[Any]:
        return routes(*rules, mesh=Mesh().put(service("chat"), workload("chat", engine=engine)))

    def test_a_model_server_has_explicit_ones(self) -> None:
        assert self.seconds(self.engine(HttpRoute(route=EVERYWHERE))[0]) == (600, 600, 300)

    def test_also_without_a_virtual_service(self) -> None:
        mesh = Mesh().put(service("chat"), workload("chat", engine=Engine.OLLAMA))
        (found,) = Rig(mesh).hosts(8000)[f"{HOST}:8000"].routes
        assert self.seconds(found) == (900, 900, 600)

    def test_what_is_written_wins_even_zero(self) -> None:
        assert self.seconds(self.engine(HttpRoute(route=EVERYWHERE, timeout=0.0))[0]) == (0, 0, 0)
        assert self.seconds(self.engine(HttpRoute(route=EVERYWHERE, timeout=3.0))[0]) == (3, 3, 0)

    def test_the_longest_of_several_engines(self) -> None:
        mesh = Mesh().put(
            service("chat"), workload("chat", engine=Engine.VLLM), service("b"), workload("b", engine=Engine.LLAMACPP)
        )
        (found,) = routes(HttpRoute(route=(to("chat", weight=1), to("b", weight=1))), mesh=mesh)
        assert self.seconds(found) == (900, 900, 600)


class TestFault:
    def injected(self, fault: Fault) -> Any:
        found = fault_pb2.HTTPFault()
        one(fault=fault).typed_per_filter_config["envoy.filters.http.fault"].Unpack(found)
        return found

    def test_delay_and_abort(self) -> None:
        found = self.injected(Fault(delay=1.5, delay_percent=0.1, abort_status=503, abort_percent=50))
        assert found.delay.fixed_delay.nanos == 500_000_000
        assert (found.delay.percentage.numerator, found.delay.percentage.denominator) == (1000, 2)
        assert (found.abort.http_status, found.abort.percentage.numerator) == (503, 500_000)

    def test_grpc_status(self) -> None:
        assert self.injected(Fault(abort_grpc_status=14, abort_percent=100)).abort.grpc_status == 14

    def test_without_percentage_nothing_happens(self) -> None:
        assert not one(fault=Fault(delay=5.0, abort_status=503)).typed_per_filter_config


def test_cors() -> None:
    written = Cors(
        allow_origins=(exact("https://a.example"), prefix("https://b")),
        allow_methods=("GET", "POST"),
        allow_headers=("x-a",),
        expose_headers=("x-b",),
        max_age=86400.0,
        allow_credentials=True,
    )
    found = cors_pb2.CorsPolicy()
    one(cors=written).typed_per_filter_config["envoy.filters.http.cors"].Unpack(found)
    assert [item.exact or item.prefix for item in found.allow_origin_string_match] == ["https://a.example", "https://b"]
    assert (found.allow_methods, found.allow_headers, found.expose_headers) == ("GET,POST", "x-a", "x-b")
    assert (found.max_age, found.allow_credentials.value) == ("86400", True)
    assert found.forward_not_matching_preflights.value is True
    one(cors=Cors(unmatched_preflights="IGNORE")).typed_per_filter_config["envoy.filters.http.cors"].Unpack(found)
    assert found.forward_not_matching_preflights.value is False


def test_fault_and_cors_on_one_route() -> None:
    found = one(fault=Fault(abort_status=500, abort_percent=1), cors=Cors())
    assert sorted(found.typed_per_filter_config) == ["envoy.filters.http.cors", "envoy.filters.http.fault"]


def test_mirrors() -> None:
    target = Destination(HOST, "v2")
    found = one(mirrors=(Mirror(target), Mirror(target, 0.5), Mirror(target, 0))).route.request_mirror_policies
    assert [item.runtime_fraction.default_value.numerator for item in found] == [1_000_000, 5000]
    for item in found:
        assert item.cluster == outbound_cluster(8000, "v2", HOST)
        assert item.HasField("trace_sampled")
        assert not item.trace_sampled.value
        assert item.disable_shadow_host_suffix_append


class TestHashPolicy:
    def policies(self, key: ConsistentHash, *destinations: Any) -> Any:
        mesh = Mesh().put(
            service("chat"),
            rule("chat", subset("v1"), policy=TrafficPolicy(LoadBalancer(consistent_hash=key))),
        )
        return routes(HttpRoute(route=destinations or EVERYWHERE), mesh=mesh)[0].route

    def test_keys(self) -> None:
        assert self.policies(ConsistentHash(header="x-u")).hash_policy[0].header.header_name == "x-u"
        assert self.policies(ConsistentHash(query_parameter="q")).hash_policy[0].query_parameter.name == "q"
        assert self.policies(ConsistentHash(use_source_ip=True)).hash_policy[0].connection_properties.source_ip
        cookie = ConsistentHash(
            cookie_name="c", cookie_path="/p", cookie_ttl=0.0, cookie_attributes=(("SameSite", "Lax"),)
        )
        found = self.policies(cookie).hash_policy[0].cookie
        assert (found.name, found.path, found.HasField("ttl")) == ("c", "/p", True)
        assert [(item.name, item.value) for item in found.attributes] == [("SameSite", "Lax")]

    def test_a_retry_may_return_to_the_host(self) -> None:
        assert not self.policies(ConsistentHash(header="x-u")).retry_policy.retry_host_predicate

    def test_of_every_weighted_destination(self) -> None:
        found = self.policies(ConsistentHash(header="x-u"), to("chat", "v1", 1), to("chat", "v2", 1))
        assert len(found.hash_policy) == 2

    def test_of_the_ports_settings(self) -> None:
        key = LoadBalancer(consistent_hash=ConsistentHash(header="x-port"))
        policy = TrafficPolicy(ports=(PortPolicy(8000, load_balancer=key),))
        mesh = Mesh().put(service("chat"), rule("chat", policy=policy))
        (found,) = Rig(mesh).hosts(8000)[f"{HOST}:8000"].routes
        assert found.route.hash_policy[0].header.header_name == "x-port"
