"""CEL's syntax: what is an expression, and where another text goes wrong."""

from __future__ import annotations

import pytest

from headrace.config.cel import MAX_DEPTH, why_not_cel


@pytest.mark.parametrize(
    "text",
    [
        "response.code >= 400",
        "has(request.auth) && !(connection.mtls in [true, false,])",
        "request.headers['x-a'].startsWith(\"b\") ? 1 : -2.5e3",
        "[1, 2].exists(one, one > 1u)",
        "{'a': 1, }.a == 0x1F",
        r"r'\d+' == '\u00e9\\n' // words",
        "Foo{a: 1, b: .c.d()}",
        "!!a || --b < 3 % 2",
        "'''two\nlines''' != b\"x\"",
    ],
)
def test_expressions(text: str) -> None:
    assert why_not_cel(text) == ""


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", 1),
        ("a b", 3),
        ("(a", 3),
        ("a ==", 5),
        ("'abc", 1),
        (r"'\d'", 1),
        ("if", 1),
        ("x.in", 3),
        ("a = b", 3),
        ("has(a)", 5),
        ("[1].all(1, true)", 9),
        ("a ? b", 6),
        ("1a", 1),
        ("9" * 5000, 1),
        ("[1,,2]", 4),
    ],
)
def test_other_texts_are_refused_with_their_place(text: str, place: int) -> None:
    assert f"character {place}," in why_not_cel(text)


def test_depth_is_bounded() -> None:
    assert why_not_cel("(" * (MAX_DEPTH - 1) + "a" + ")" * (MAX_DEPTH - 1)) == ""
    assert "simpler" in why_not_cel("(" * 5000 + "a" + ")" * 5000)
