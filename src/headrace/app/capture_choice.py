"""Which way of capturing traffic is used on this machine: what was asked for, or the best that is possible.

Called by `headrace up` and `headrace agent`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from headrace.agent.netns.support import obstacle
from headrace.app.cli import CommandFailed

_CHOSEN = "chosen because it is possible here; applications run under users of their own (or: --capture loopback)"


@dataclass(frozen=True, slots=True)
class Choice:
    """`reason` says why, for people, where nobody asked for this one."""

    kind: Literal["loopback", "netns"]
    reason: str = ""


def choose(asked: str) -> Choice:
    """The capture for `auto`, `netns` or `loopback`; CommandFailed for another word, or where netns is impossible."""
    if asked == "loopback":
        return Choice("loopback")
    if asked not in ("auto", "netns"):
        raise CommandFailed(f"--capture {asked[:50]!r} is no way of capture: use auto, netns or loopback")
    problem = obstacle()
    if not problem:
        return Choice("netns", "" if asked == "netns" else _CHOSEN)
    if asked == "netns":
        raise CommandFailed(f"--capture netns is impossible here: {problem}; or use --capture loopback")
    return Choice("loopback", f"by HTTP_PROXY (netns is impossible here: {problem})")
