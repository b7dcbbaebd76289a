"""What stands in the way of transparent capture is said."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from headrace.agent.netns import support
from headrace.agent.netns.support import obstacle
from headrace.app.capture_choice import choose
from headrace.app.cli import CommandFailed

ASK = "from headrace.agent.netns.support import obstacle; print(obstacle())"


def as_user(*prefix: str) -> str:
    done = subprocess.run([*prefix, sys.executable, "-c", ASK], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support.os, "geteuid", lambda: 0)
    monkeypatch.setattr(support, "_capabilities", lambda: -1)
    monkeypatch.setattr(support.shutil, "which", lambda name: None if name == "nft" else f"/sbin/{name}")
    assert obstacle() == "there is no `nft` (Debian: apt-get install nftables)"


def test_an_ordinary_user_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support.os, "geteuid", lambda: 1000)
    assert obstacle() == "it needs root"
    found = choose("auto")
    assert found.kind == "loopback"
    assert "it needs root" in found.reason
    with pytest.raises(CommandFailed, match="--capture netns is impossible here: it needs root"):
        choose("netns")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give up a part of it")
def test_root_without_a_capability_is_told_which(monkeypatch: pytest.MonkeyPatch) -> None:
    assert as_user("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin") == "it needs CAP_NET_ADMIN"


def test_another_word_is_refused() -> None:
    with pytest.raises(CommandFailed, match="use auto, netns or loopback"):
        choose("magic")
    assert choose("loopback").kind == "loopback"
