"""Field types: what is accepted, as what, and what is refused."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BeforeValidator, TypeAdapter, ValidationError

from headrace.config import fields


class Colour(StrEnum):
    RED = "RED"
    BLUE = "BLUE"


COLOUR = Annotated[Colour, fields.EnumOf(Colour, {0: "RED", 2: "BLUE"}, {"AZURE": "BLUE"})]
REGEX = Annotated[str, BeforeValidator(fields.check_regex)]
WORD = Annotated[str, fields.Choice("A", "B", numbered=True)]


def read(kind: Any, value: Any) -> Any:
    return TypeAdapter(kind).validate_python(value)


@pytest.mark.parametrize(
    ("kind", "value", "meaning"),
    [
        (fields.Duration, "1.5s", 1.5),
        (fields.Duration, "10ms", 0.01),
        (fields.Duration, "1h2m3s", 3723.0),
        (fields.Duration, "0", 0.0),
        (fields.Duration, "0s", 0.0),
        (fields.Duration, ".5s", 0.5),
        (fields.Duration, "250us", 0.00025),
        (fields.Port, "65535", 65535),
        (fields.Port, 80.0, 80),
        (fields.UInt32, 2**32 - 1, 2**32 - 1),
        (fields.Int32, "-5", -5),
        (fields.Percent, "99.5", 99.5),
        (fields.Percent, 100, 100.0),
        (fields.Number, "1e3", 1000.0),
        (fields.Host, "chat", "chat"),
        (fields.Host, "Chat.Default.svc", "Chat.Default.svc"),
        (fields.Host, "10.0.0.1", "10.0.0.1"),
        (REGEX, "a.*b", "a.*b"),
        (REGEX, "(?i)v[0-9]+", "(?i)v[0-9]+"),
        (fields.Address, "::1", "::1"),
        (fields.Cidr, "10.0.0.0/8", "10.0.0.0/8"),
        (fields.Cidr, "10.0.0.1", "10.0.0.1"),
        (fields.HeaderName, ":authority", ":authority"),
        (fields.HeaderName, "x-Request_id", "x-Request_id"),
        (fields.LabelKey, "app.kubernetes.io/name", "app.kubernetes.io/name"),
        (fields.LabelValue, "", ""),
        (fields.HttpStatus, 503, 503),
        (fields.Bool, False, False),
        (COLOUR, "AZURE", Colour.BLUE),
        (COLOUR, 2, Colour.BLUE),
        (WORD, "B", "B"),
        (WORD, 1, "B"),
    ],
)
def test_accepted(kind: Any, value: Any, meaning: Any) -> None:
    found = read(kind, value)
    assert (found, type(found)) == (meaning, type(meaning))


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (fields.Duration, "5", "not a duration"),
        (fields.Duration, 5, "not a duration"),
        (fields.Duration, "5 s", "not a duration"),
        (fields.Duration, "s", "not a duration"),
        (fields.Duration, "", "not a duration"),
        (fields.Duration, "1d", "not a duration"),
        (fields.Duration, "-1s", "too short"),
        (fields.Duration, "999999999999999h", "too long"),
        (fields.Duration, "٣s", "not a duration"),
        (fields.Port, 0, "out of range"),
        (fields.Port, 65536, "out of range"),
        (fields.Port, "http", "not a whole number"),
        (fields.Port, 80.5, "not a whole number"),
        (fields.Port, True, "not a whole number"),
        (fields.Port, "٨٠", "not a whole number"),
        (fields.Port, "9" * 5000, "not a whole number"),
        (fields.UInt32, -1, "out of range"),
        (fields.Percent, 100.1, "out of range"),
        (fields.Percent, float("nan"), "not a number"),
        (fields.Number, float("inf"), "not a number"),
        (fields.Number, "1_0", "not a number"),
        (fields.Host, "*.a", "wildcard"),
        (fields.Host, "", "not a host name"),
        (fields.Host, "a..b", "not a host name"),
        (fields.Host, "a b", "not a host name"),
        (fields.Host, "-a", "not a host name"),
        (fields.Host, "a" * 64, "not a host name"),
        (fields.Host, "a\n", "not a host name"),
        (REGEX, "(?=a)", "RE2"),
        (REGEX, r"(a)\1", "RE2"),
        (REGEX, "a(", "RE2"),
        (REGEX, "", "empty"),
        (REGEX, "a" * 5000, "too long"),
        (REGEX, "(((a{100}){100}){100})", "RE2"),
        (fields.Address, "10.0.0.256", "not an IP address"),
        (fields.Cidr, "10.0.0.0/33", "not an IP address"),
        (fields.HeaderName, "x y", "not a header name"),
        (fields.HeaderValue, "a\r\nb: c", "line break"),
        (fields.LabelKey, "/a", "not a label key"),
        (fields.LabelValue, "a b", "not a label value"),
        (fields.Bool, "true", "neither true nor false"),
        (fields.Text, 5, "not a text"),
        (fields.Text, "x" * 70_000, "70000 characters"),
        (fields.NonEmpty, "", "must not be empty"),
        (COLOUR, "GREEN", "not one of its values"),
        (COLOUR, 1, "not one of its values"),
        (COLOUR, False, "not one of its values"),
        (COLOUR, [], "not one of its values"),
        (WORD, 2, "not one of its values"),
    ],
)
def test_refused(kind: Any, value: Any, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        read(kind, value)
    (error,) = caught.value.errors()
    assert error["type"] == "headrace"
    assert said in error["msg"]
    assert len(error["msg"]) < 300


@given(st.integers(min_value=0, max_value=10**7), st.sampled_from(["ms", "s", "m", "h"]))
def test_durations_are_seconds(amount: int, unit: str) -> None:
    factor = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]
    assert fields.parse_duration(f"{amount}{unit}") == pytest.approx(amount * factor, abs=1e-9)


@given(st.text(max_size=40))
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    try:
        assert read(fields.Duration, text) >= 0
    except ValidationError as error:
        assert error.errors()[0]["type"] == "headrace"


@given(st.text(max_size=40))
def test_any_text_is_a_pattern_of_re2_or_refused(text: str) -> None:
    try:
        assert read(REGEX, text) == text
    except ValidationError as error:
        assert error.errors()[0]["type"] == "headrace"


@given(st.from_regex(re.compile(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?"), fullmatch=True))
def test_every_dns_label_is_a_host(label: str) -> None:
    assert fields.is_dns_label(label)
    assert read(fields.Host, label) == label


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers(), max_size=3)))
def test_no_value_breaks_a_type(value: Any) -> None:
    for kind in (fields.Port, fields.Duration, fields.Host, fields.Percent, fields.LabelKey, fields.Cidr, COLOUR, WORD):
        try:
            read(kind, value)
        except ValidationError as error:
            assert error.errors()[0]["type"] == "headrace"
