"""A picture of a comparison: for each policy, the share of requests whose first token came within a time (SVG).

Called by `headrace simulate --plot` and benchmarks/simulate.py. Plain SVG, readable in light and dark viewers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from headrace.inference.simulate import Result

_WIDTH, _HEIGHT = 860, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 190, 46, 48
_COLOURS = ("#0b6e4f", "#c1440e", "#31639c", "#8e4585", "#b8860b", "#5b6770", "#d1477a", "#20262b")
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "5 5", "1 4", "12 4", "3 6")
_POINTS = 200


def plot(results: Sequence[Result], title: str) -> str:
    """The picture of at least one result that has requests."""
    least = max(1e-3, min(min(one.first_tokens) for one in results))
    most = max(least * 10, max(max(one.first_tokens) for one in results))
    low, high = math.floor(math.log10(least)), math.ceil(math.log10(most))

    def x(seconds: float) -> float:
        share = (math.log10(max(seconds, 10.0**low)) - low) / (high - low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(share: float) -> float:
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="13" aria-label="{escape(title, {chr(34): "&quot;"})}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="26" font-size="16" fill="#20262b">{escape(title)}</text>',
    ]
    for power in range(low, high + 1):
        at = x(10.0**power)
        parts.append(f'<path d="M{at:.1f} {y(0):.1f}V{y(1):.1f}" stroke="#e3e6e8"/>')
        parts.append(_text(at, _HEIGHT - _BOTTOM + 18, f"{10.0**power:g} s", "middle"))
    for percent in (0, 25, 50, 75, 99):
        at = y(percent / 100)
        parts.append(f'<path d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}" stroke="#e3e6e8"/>')
        parts.append(_text(_LEFT - 8, at + 4, f"{percent} %", "end"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, "time to first token", "middle"))
    for place, result in enumerate(results):
        colour, dash = _COLOURS[place % len(_COLOURS)], _DASHES[place % len(_DASHES)]
        path = "".join(
            f"{'L' if at else 'M'}{x(value):.1f} {y(share):.1f}"
            for at, (share, value) in enumerate(_ranks(result.first_tokens))
        )
        style = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}" fill="none"'
        parts.append(f'<path d="{path}" {style}/>')
        row = _TOP + 14 + place * 40
        left = _WIDTH - _RIGHT + 16
        parts.append(f'<path d="M{left} {row}h26" {style}/>')
        parts.append(_text(left + 34, row + 4, result.policy, "start"))
        parts.append(_text(left + 34, row + 20, f"mean {result.figures['ttft_mean_s']:.3g} s", "start", "#5b6770"))
    return "\n".join([*parts, "</svg>", ""])


def _ranks(values: Sequence[float]) -> list[tuple[float, float]]:
    """(share, value) at evenly spaced shares, smallest first."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return [(step / _POINTS, ordered[round(step / _POINTS * last)]) for step in range(_POINTS + 1)]


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#20262b") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'
