"""Listeners and filter chains: who takes a connection, criterion by criterion."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.envoy.trace.listeners import chain_for, inspect, listener_for
from headrace.envoy.trace.request import Content, Request, Tls

TLS_INSPECTOR = {"name": "envoy.filters.listener.tls_inspector"}
HTTP_INSPECTOR = {"name": "envoy.filters.listener.http_inspector"}


def listener(name: str, address: str, port: int, **more: Any) -> dict[str, Any]:
    place = {"socket_address": {"address": address, "port_value": port}}
    return {"name": name, "address": place, "filter_chains": [], **more}


def chain(name: str, **match: Any) -> dict[str, Any]:
    return {"name": name, "filter_chain_match": match, "filters": []}


OUTBOUND = [
    listener("virtualOutbound", "0.0.0.0", 15001, use_original_dst=True),
    listener("virtualInbound", "0.0.0.0", 15006),
    listener("0.0.0.0_80", "0.0.0.0", 80, bind_to_port=False),
    listener("10.0.0.1_80", "10.0.0.1", 80, bind_to_port=False),
]


@pytest.mark.parametrize(
    ("request_", "found"),
    [
        (Request("10.0.0.1", 80), "10.0.0.1_80"),
        (Request("10.0.0.2", 80), "0.0.0.0_80"),
        (Request("10.0.0.2", 81), "virtualOutbound"),
        (Request("10.0.0.1", 80, inbound=True), "virtualInbound"),
        (Request("10.0.0.1", 80, direct=True), "10.0.0.1_80"),
        (Request("10.0.0.1", 81, direct=True), None),
    ],
)
def test_the_listener_of_an_original_destination(request_: Request, found: str | None) -> None:
    taken, why = listener_for(OUTBOUND, request_)
    assert (taken and taken["name"]) == found
    assert why


def taken(chains: list[dict[str, Any]], request: Request, *filters: dict[str, Any], default: bool = False) -> str:
    one = listener("l", "0.0.0.0", 1, filter_chains=chains, listener_filters=list(filters))
    if default:
        one["default_filter_chain"] = {"name": "default"}
    found, _ = chain_for(one, request, inspect(one, request))
    return found["name"] if found else ""


def test_the_port_comes_first_and_never_goes_back() -> None:
    chains = [chain("named", destination_port=80, transport_protocol="tls"), chain("any")]
    assert taken(chains, Request("10.0.0.1", 81)) == "any"
    assert taken(chains, Request("10.0.0.1", 80)) == "", "a chain of the port exists, so the others are no choice"
    assert taken(chains, Request("10.0.0.1", 80), default=True) == "default"


def test_the_longest_block_of_addresses_wins() -> None:
    blocks = {"wide": 8, "narrow": 24}
    chains = [
        chain(name, prefix_ranges=[{"address_prefix": "10.0.0.0", "prefix_len": length}])
        for name, length in blocks.items()
    ]
    chains.append(chain("rest"))
    assert taken(chains, Request("10.0.0.9", 1)) == "narrow"
    assert taken(chains, Request("10.9.0.9", 1)) == "wide"
    assert taken(chains, Request("192.0.2.1", 1)) == "rest"


@pytest.mark.parametrize(
    ("sni", "found"),
    [("a.example", "exact"), ("b.example", "wild"), ("x.y.deep.example", "deep"), ("other", "rest")],
)
def test_server_names_from_exact_to_short_wildcards(sni: str, found: str) -> None:
    chains = [
        chain("exact", server_names=["a.example"]),
        chain("wild", server_names=["*.example"]),
        chain("deep", server_names=["*.deep.example"]),
        chain("rest"),
    ]
    assert taken(chains, Request("10.0.0.1", 1, tls=Tls.SIMPLE, sni=sni), TLS_INSPECTOR) == found
    assert taken(chains, Request("10.0.0.1", 1, tls=Tls.SIMPLE, sni=sni)) == "rest", "nobody read the hello"


def test_protocols_are_known_only_where_somebody_inspects() -> None:
    chains = [
        chain("mesh", transport_protocol="tls", application_protocols=["istio"]),
        chain("tls", transport_protocol="tls"),
        chain("http", transport_protocol="raw_buffer", application_protocols=["http/1.1", "h2c"]),
        chain("tcp"),
    ]
    both = (TLS_INSPECTOR, HTTP_INSPECTOR)
    assert taken(chains, Request("10.0.0.1", 1, tls=Tls.MESH, alpn=("istio",)), *both) == "mesh"
    assert taken(chains, Request("10.0.0.1", 1, tls=Tls.SIMPLE, alpn=("h2",)), *both) == "tls"
    assert taken(chains, Request("10.0.0.1", 1), *both) == "http"
    assert taken(chains, Request("10.0.0.1", 1, content=Content.HTTP2), *both) == "http"
    assert taken([chains[2], chains[3]], Request("10.0.0.1", 1), TLS_INSPECTOR) == "", "raw, and not known to be HTTP"


def test_an_inspector_is_off_for_some_ports() -> None:
    off = HTTP_INSPECTOR | {"filter_disabled": {"destination_port_range": {"start": 80, "end": 81}}}
    chains = [chain("http", application_protocols=["http/1.1"]), chain("rest")]
    assert taken(chains, Request("10.0.0.1", 81), off) == "http"
    assert taken(chains, Request("10.0.0.1", 80), off) == "rest"
    other = HTTP_INSPECTOR | {"filter_disabled": {"not_match": off["filter_disabled"]}}
    assert taken(chains, Request("10.0.0.1", 80), other) == "http"
