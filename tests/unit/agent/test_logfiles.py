"""Logs stay small while their writers go on."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from headrace.agent.logfiles import shorten
from headrace.agent.process import open_log


def test_a_long_log_is_rotated_under_its_writer(tmp_path: Path) -> None:
    log, small = tmp_path / "long.log", tmp_path / "small.log"
    writer = open_log(log)
    os.write(writer, b"old\n" + b"x" * 995 + b"\n")
    small.write_bytes(b"few")
    shorten([log, small, tmp_path / "missing.log"], 500)
    os.write(writer, b"new\n")
    os.close(writer)
    assert log.read_bytes() == b"new\n", "no hole before what is appended"
    older = tmp_path / "long.log.1"
    assert older.read_bytes() == b"x" * 499 + b"\n", "the last 500 bytes"
    assert stat.S_IMODE(older.stat().st_mode) == stat.S_IMODE(log.stat().st_mode) == 0o600
    assert small.read_bytes() == b"few" and not (tmp_path / "small.log.1").exists()


def test_a_link_in_the_place_of_the_older_log_is_not_followed(tmp_path: Path) -> None:
    log, victim = tmp_path / "a.log", tmp_path / "victim"
    log.write_bytes(b"x" * 100)
    victim.write_bytes(b"precious")
    (tmp_path / "a.log.1").symlink_to(victim)
    shorten([log], 10)
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "a.log.1").read_bytes() == b"x" * 10


def test_one_that_cannot_be_rotated_holds_up_no_other(tmp_path: Path) -> None:
    bad, good = tmp_path / "a.log", tmp_path / "b.log"
    for path in (bad, good):
        path.write_bytes(b"x" * 100)
    (tmp_path / "a.log.1").mkdir()
    shorten([bad, good], 10)
    assert good.read_bytes() == b"" and bad.stat().st_size == 100
