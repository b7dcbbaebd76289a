"""The reader of Prometheus' text format: what it takes, what it passes over, and its bounds."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.inference.metrics import MOST_BYTES, MetricsError
from headrace.inference.metrics.exposition import Page, share, whole


def test_only_the_whole_name_counts() -> None:
    page = Page(b'a 1\nab 2\na_total 3\n# a 4\n a 5\na{x="y"} 6\na\t7\n', ["a"])
    assert [sample.value for sample in page.samples("a")] == [1.0, 6.0, 7.0]
    assert (page.total("a"), page.most("a"), page.total("b")) == (14.0, 7.0, None)
    assert page.mean("a") == pytest.approx(14 / 3)


def test_labels_may_hold_anything_that_is_escaped() -> None:
    line = rb'a{one="x\"y\\z\n}",two="{b=\"c\"} 5", } 2.5e1 1795284905000 # {trace="1"} 3' + b"\r\n"
    (sample,) = Page(line, ["a"]).samples("a")
    assert dict(sample.labels) == {"one": 'x"y\\z\n}', "two": '{b="c"} 5'}
    assert sample.value == 25.0


@pytest.mark.parametrize(
    "line",
    [b"a", b"a ", b"a{", b'a{x="y"', b"a{x=y} 1", b'a{x="y"} ', b"a NaN", b"a +Inf", b"a -1", b"a x", b'a{x="} 1'],
)
def test_lines_that_say_nothing_are_passed_over(line: bytes) -> None:
    page = Page(line + b"\na 3\n", ["a"])
    assert [sample.value for sample in page.samples("a")] == [3.0]


def test_bounds() -> None:
    with pytest.raises(MetricsError, match="bytes"):
        Page(b"#" * (MOST_BYTES + 1), ["a"])
    with pytest.raises(MetricsError, match="lines"):
        Page(b"a 1\n" * 5000, ["a"])
    long = b'a{x="' + b"y" * 100_000 + b'"} 1\na 2\n'
    assert Page(long, ["a"]).total("a") == 2.0


def test_a_page_full_of_other_names_is_read_quickly() -> None:
    page = b'vllm:time_to_first_token_seconds_bucket{le="0.1",model_name="m"} 1.0\n' * (MOST_BYTES // 70) + b"a 1\n"
    began = time.process_time()
    assert Page(page, ["a", "vllm:num_requests_waiting"]).total("a") == 1.0
    assert time.process_time() - began < 1.0


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail(body: bytes) -> None:
    for prefix in (b"a", b"a{", b'a{x="', b'a{x="\\'):
        total = Page(prefix + body, ["a"]).total("a")
        assert total is None or total >= 0


def test_counts_and_shares_are_bounded() -> None:
    assert [whole(value) for value in ("16", "None", "", None, "nan", "-1", "inf", 0, 3.0, 1e300)] == [
        *(16, None, None, None, None, None, None, None, 3),
        None,
    ]
    assert [share(value) for value in (None, 0.3, 55.0)] == [None, 0.3, 1.0]
