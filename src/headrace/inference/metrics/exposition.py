"""Reads the few samples that are wanted out of a page in Prometheus' text format or OpenMetrics.

Our own reader rather than prometheus_client's: pages come from servers that we do not trust and are mostly histograms
(vLLM: thousands of lines), so lines of other names are passed over unread, and everything has a bound.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from headrace.inference.metrics.engine_metrics import MetricsError

MOST_BYTES = 8 * 1024 * 1024
"""Of a page. Whoever fetches one need not read on beyond this."""
_MOST_LINE = 64 * 1024
_MOST_SAMPLES = 4096
_MOST_WHOLE = 10**12

_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*,?')
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Sample:
    """One line: its labels and its value, which is finite."""

    labels: Mapping[str, str]
    value: float


class Page:
    """The samples of the wanted names on one page. Values that are negative or no number are left out."""

    def __init__(self, page: bytes, wanted: Iterable[str]) -> None:
        """Raises MetricsError where the page is too large."""
        if len(page) > MOST_BYTES:
            raise MetricsError(f"the metrics page has {len(page)} bytes; more than {MOST_BYTES} are not read")
        self._samples: dict[str, list[Sample]] = {}
        names = b"|".join(re.escape(name.encode()) for name in wanted if name)
        lines = re.finditer(rb"^(" + names + rb")(?=[{ \t])(.*)$", page, re.MULTILINE) if names else ()
        for count, line in enumerate(lines):
            if count >= _MOST_SAMPLES:
                raise MetricsError(f"the metrics page has more than {_MOST_SAMPLES} lines of the same few names")
            sample = _sample(line[2].decode("utf-8", "replace")) if len(line[2]) <= _MOST_LINE else None
            if sample is not None:
                self._samples.setdefault(line[1].decode(), []).append(sample)

    def samples(self, name: str, **labels: str) -> list[Sample]:
        """Those of a name whose labels include these."""
        return [
            sample
            for sample in self._samples.get(name, ())
            if all(sample.labels.get(key) == value for key, value in labels.items())
        ]

    def total(self, name: str, **labels: str) -> float | None:
        """Their sum; None where there are none."""
        values = [sample.value for sample in self.samples(name, **labels)]
        return sum(values) if values else None

    def most(self, name: str, **labels: str) -> float | None:
        """The greatest of them; None where there are none."""
        return max((sample.value for sample in self.samples(name, **labels)), default=None)

    def mean(self, name: str, **labels: str) -> float | None:
        """Their mean; None where there are none."""
        values = [sample.value for sample in self.samples(name, **labels)]
        return sum(values) / len(values) if values else None


def _sample(rest: str) -> Sample | None:
    """A line after its name: labels, value, and perhaps a time or an exemplar, which are not read."""
    rest = rest.strip()
    labels: dict[str, str] = {}
    if rest.startswith("{"):
        at = 1
        while (match := _LABEL.match(rest, at)) is not None:
            labels[match[1]] = _ESCAPED.sub(lambda escaped: {"n": "\n"}.get(escaped[1], escaped[1]), match[2])
            at = match.end()
        closed = rest[at:].lstrip()
        if not closed.startswith("}"):
            return None
        rest = closed[1:]
    fields = rest.split(maxsplit=1)
    try:
        value = float(fields[0])
    except (IndexError, ValueError):
        return None
    return Sample(labels, value) if math.isfinite(value) and value >= 0 else None


def whole(value: float | str | None) -> int | None:
    """A count from a gauge or a label; None where it is none (vLLM writes the text None)."""
    try:
        number = float(value) if value is not None else math.nan
    except ValueError:
        return None
    return int(number) if 0 < number <= _MOST_WHOLE else None


def share(value: float | None) -> float | None:
    """A share between 0 and 1."""
    return None if value is None else min(max(value, 0.0), 1.0)


def product(first: int | None, second: int | None) -> int | None:
    """Blocks times tokens, where both are known."""
    return None if first is None or second is None else first * second
