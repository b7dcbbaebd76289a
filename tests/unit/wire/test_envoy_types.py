"""Pieces of Envoy's configuration as documents write them: which message they are, and the same bytes every time."""

from __future__ import annotations

import pytest

from headrace.wire.envoy_types import (
    NotBuiltError,
    UnknownTypeError,
    WrongMessageError,
    filters_without_config,
    message_class,
    message_from_json,
    unknown_fields,
)

CLUSTER = "envoy.config.cluster.v3.Cluster"
FILTER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter"
PREFIX = "type.googleapis.com/envoy.extensions.filters.http"


def test_both_spellings_and_durations_as_go_writes_them() -> None:
    one = message_from_json(CLUSTER, {"name": "a", "connectTimeout": "1m0.5s", "dns_refresh_rate": "500ms"})
    other = message_from_json(CLUSTER, {"dnsRefreshRate": "0.5s", "connect_timeout": "60.5s", "name": "a"})
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


def test_the_order_of_keys_inside_an_any_changes_no_byte() -> None:
    rules = {f"rule-{at}": {"permissions": [{"any": True}], "principals": [{"any": True}]} for at in range(20)}
    turned = dict(reversed(rules.items()))
    bytes_of = [
        message_from_json(
            FILTER, {"name": "r", "typed_config": {"@type": f"{PREFIX}.rbac.v3.RBAC", "rules": {"policies": order}}}
        ).SerializeToString(deterministic=True)
        for order in (rules, turned)
    ]
    assert bytes_of[0] == bytes_of[1]


def test_types_that_are_too_new_go_to_envoy_as_they_are() -> None:
    config = {"@type": f"{PREFIX}.sse_to_metadata.v3.SseToMetadata", "response_rules": {"rules": []}}
    message = message_from_json(FILTER, {"name": "s", "typed_config": config})
    assert message.typed_config.type_url.endswith("xds.type.v3.TypedStruct")


@pytest.mark.parametrize(
    "config",
    [
        {"@type": "type.googleapis.com/xds.type.v3.TypedStruct", "type_url": f"{PREFIX}.wasm.v3.Wasm"},
        {"@type": "type.googleapis.com/google.protobuf.Struct"},
    ],
)
def test_free_data_is_left_as_it_is(config: dict[str, object]) -> None:
    inner = {"a": {"@type": "type.googleapis.com/nobody.Knows", "timeout": "500ms"}}
    message = message_from_json(FILTER, {"name": "s", "typed_config": {**config, "value": inner}})
    assert all(text in message.typed_config.value for text in (b"nobody.Knows", b"500ms"))


@pytest.mark.parametrize(
    ("url", "error"),
    [
        (f"{PREFIX}.lau.v3.Lua", UnknownTypeError),
        ("type.googleapis.com/envoy.config.filter.http.lua.v2.Lua", UnknownTypeError),
        ("type.googleapis.com/os.v3.Path", UnknownTypeError),
        ("type.googleapis.com/envoy.../x.v3.Y", UnknownTypeError),
        (f"{PREFIX}.golang.v3alpha.Config", NotBuiltError),
        ("type.googleapis.com/io.istio.http.peer_metadata.Config", NotBuiltError),
    ],
)
def test_types_that_nobody_has(url: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=url.rpartition("/")[2][:10]) as raised:
        message_from_json(FILTER, {"typed_config": {"@type": url}})
    assert type(raised.value) is error


@pytest.mark.parametrize(
    "value", [{"name": 3}, {"typed_config": {"a": 1}}, {"connect_timeout": "soon"}, {"lb_policy": "BEST"}]
)
def test_wrong_values_are_said(value: dict[str, object]) -> None:
    with pytest.raises(WrongMessageError):
        message_from_json(FILTER if "typed_config" in value else CLUSTER, value)


def test_what_is_nested_without_end_is_refused() -> None:
    value: dict[str, object] = {}
    for _ in range(300):
        value = {"metadata": value}
    with pytest.raises(WrongMessageError, match="levels"):
        message_from_json(CLUSTER, value)


def test_unknown_fields_are_left_out_and_named() -> None:
    assert message_from_json(CLUSTER, {"name": "a", "nmae": "b"}) == message_from_json(CLUSTER, {"name": "a"})
    assert "nmae" in unknown_fields(CLUSTER, {"name": "a", "nmae": "b"})
    assert unknown_fields(CLUSTER, {"name": "a"}) == ""


def test_a_filter_says_what_it_is() -> None:
    assert filters_without_config(message_from_json(FILTER, {"name": "envoy.lua"})) == ["envoy.lua"]
    discovered = {"name": "a", "config_discovery": {"type_urls": ["x"]}}
    assert filters_without_config(message_from_json(FILTER, discovered)) == []


def test_modules_that_are_no_messages_are_not_imported() -> None:
    assert message_class("headrace.envoy.binary.Thing") is None
    assert message_class("envoy.nothing.v3.Thing") is None
