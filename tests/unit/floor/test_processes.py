"""Processes are known by pid and start time, so that a successor with the same pid is never taken for them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from headrace.floor.processes import ProcessMark, read_mark, write_mark


def _sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def test_a_mark_follows_one_process_through_its_life(tmp_path: Path) -> None:
    child = _sleeper()
    mark = ProcessMark.of(child.pid)
    assert mark is not None and mark.alive()
    write_mark(tmp_path / "pid", mark)
    assert read_mark(tmp_path / "pid") == mark
    assert mark.send(signal.SIGTERM)
    assert mark.wait_gone(5.0)
    assert read_mark(tmp_path / "pid") is None
    assert not mark.send(signal.SIGTERM)


def test_another_start_time_is_another_process() -> None:
    own = ProcessMark.of(os.getpid())
    assert own is not None
    stranger = ProcessMark(own.pid, own.started - 1)
    assert not stranger.alive()
    assert not stranger.send(signal.SIGKILL)


def test_a_zombie_does_not_live() -> None:
    child = _sleeper()
    mark = ProcessMark.of(child.pid)
    assert mark is not None
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not mark.alive()
    child.wait()


def test_nonsense_in_a_pid_file_is_no_process(tmp_path: Path) -> None:
    for text in ("", "abc", "1", "1 2 3", "-5 7"):
        (tmp_path / "pid").write_text(text)
        assert read_mark(tmp_path / "pid") is None
