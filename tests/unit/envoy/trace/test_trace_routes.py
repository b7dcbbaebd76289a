"""Virtual hosts and routes: which takes a request, why others did not, and how the request leaves."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.envoy.trace.request import Request
from headrace.envoy.trace.routes import answer_of, route_in, shares, virtual_host

TABLE = {
    "ignore_port_in_host_matching": True,
    "virtual_hosts": [
        {"name": "any", "domains": ["*"]},
        {"name": "suffix", "domains": ["*.example.com"]},
        {"name": "longer", "domains": ["*.b.example.com"]},
        {"name": "prefix", "domains": ["a.*"]},
        {"name": "exact", "domains": ["a.example.com", "[2001:db8::1]"]},
    ],
}


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("a.example.com", "exact"),
        ("A.Example.com:8080", "exact"),
        ("c.example.com", "suffix"),
        ("c.b.example.com", "longer"),
        ("a.org", "prefix"),
        ("nobody", "any"),
        ("[2001:db8::1]:80", "exact"),
    ],
)
def test_domains_in_envoys_order(host: str, found: str) -> None:
    taken, domain = virtual_host(TABLE, host)
    assert taken is not None
    assert taken["name"] == found
    assert domain in taken["domains"]


def test_a_name_without_a_virtual_host() -> None:
    assert virtual_host({"virtual_hosts": [{"name": "a", "domains": ["a"]}]}, "b") == (None, "")


def request(path: str = "/", **headers: str) -> Request:
    return Request("10.0.0.1", 80, "a", path, headers=tuple((key.replace("_", "-"), v) for key, v in headers.items()))


@pytest.mark.parametrize(
    ("match", "fits", "fails"),
    [
        ({"prefix": "/a"}, request("/ab"), request("/b")),
        ({"path": "/a"}, request("/a?x=1"), request("/a/")),
        ({"path": "/A", "case_sensitive": False}, request("/a"), request("/b")),
        ({"path_separated_prefix": "/a"}, request("/a/b"), request("/ab")),
        ({"safe_regex": {"regex": "/v[0-9]+"}}, request("/v12"), request("/v12/x")),
        ({"prefix": "/", "headers": [{"name": "x", "string_match": {"exact": "1"}}]}, request(x="1"), request(x="2")),
        ({"prefix": "/", "headers": [{"name": "x", "present_match": True}]}, request(x=""), request()),
        (
            {"prefix": "/", "headers": [{"name": "x", "present_match": True, "invert_match": True}]},
            request(),
            request(x=""),
        ),
        (
            {"prefix": "/", "headers": [{"name": "x", "string_match": {"prefix": "a"}, "invert_match": True}]},
            request(x="b"),
            request(),
        ),
        (
            {
                "prefix": "/",
                "headers": [
                    {
                        "name": "x",
                        "string_match": {"prefix": "a"},
                        "invert_match": True,
                        "treat_missing_header_as_empty": True,
                    }
                ],
            },
            request(),
            request(x="ab"),
        ),
        (
            {"prefix": "/", "query_parameters": [{"name": "m", "string_match": {"exact": "x"}}]},
            request("/?m=x&m=y"),
            request("/?m=y"),
        ),
        ({"prefix": "/", "grpc": {}}, request(content_type="application/grpc+proto"), request()),
        (
            {"prefix": "/", "headers": [{"name": ":method", "string_match": {"exact": "GET"}}]},
            request(),
            Request("10.0.0.1", 80, method="PUT"),
        ),
    ],
)
def test_conditions(match: dict[str, Any], fits: Request, fails: Request) -> None:
    host = {"routes": [{"name": "r", "match": match}]}
    assert route_in(host, fits)[0] is not None
    taken, skipped, _ = route_in(host, fails)
    assert taken is None
    assert skipped[0].why


def test_claims_of_the_token_choose_a_route() -> None:
    path = [{"key": "payload"}, {"key": "tier"}]
    condition = {
        "filter": "envoy.filters.http.jwt_authn",
        "path": path,
        "value": {"or_match": {"value_matchers": [{"string_match": {"exact": "gold"}}]}},
    }
    host = {"routes": [{"match": {"prefix": "/", "dynamic_metadata": [condition]}}]}
    assert route_in(host, Request("10.0.0.1", 80, claims={"tier": "gold"}))[0] is not None
    assert route_in(host, Request("10.0.0.1", 80, claims={"tier": "tin"}))[0] is None
    assert "tier" in route_in(host, Request("10.0.0.1", 80))[1][0].why


def test_shares_and_the_request_as_it_leaves() -> None:
    route = {
        "match": {"prefix": "/v1"},
        "request_headers_to_add": [
            {"header": {"key": "X-Set", "value": "1"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        ],
        "request_headers_to_remove": ["x-gone"],
        "route": {
            "prefix_rewrite": "/api",
            "host_rewrite_literal": "inner",
            "weighted_clusters": {
                "clusters": [
                    {"name": "a", "weight": 3},
                    {"name": "b", "weight": 1, "host_rewrite_literal": "other"},
                    {"name": "never", "weight": 0},
                ]
            },
        },
    }
    first, second = shares(route, request("/v1/x?q=1", x_gone="1", x_set="0"))
    assert (first.cluster, first.percent, second.percent) == ("a", 75.0, 25.0)
    assert (first.request.path, first.request.host) == ("/api/x?q=1", "inner")
    assert first.request.headers == (("x-set", "1"),)
    assert second.request.host == "other"


def test_a_path_rewritten_by_a_pattern() -> None:
    rewrite = {"pattern": {"regex": "/models/([^/]+)/chat"}, "substitution": "/chat/\\1"}
    (share,) = shares({"route": {"cluster": "a", "regex_rewrite": rewrite}}, request("/models/m/chat"))
    assert share.request.path == "/chat/m"


@pytest.mark.parametrize(
    ("route", "answer"),
    [
        ({"direct_response": {"status": 418}}, "418 directly"),
        ({"redirect": {"path_redirect": "/new", "response_code": "PERMANENT_REDIRECT"}}, "308 to http://a/new"),
        ({"redirect": {"https_redirect": True, "port_redirect": 8443}}, "301 to https://a:8443/old"),
        ({"match": {"prefix": "/o"}, "redirect": {"prefix_rewrite": "/n"}}, "301 to http://a/nld"),
        ({"route": {"cluster": "a"}}, ""),
    ],
)
def test_answers_of_its_own(route: dict[str, Any], answer: str) -> None:
    assert answer_of(route, request("/old")) == answer
