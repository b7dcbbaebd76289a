"""Real processes: sessions of their own, ends noticed, nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from headrace.agent.process import Child, Launch, StartFailed, adopt, mark_of, marked, spawn
from headrace.floor.processes import ProcessMark

ENVIRONMENT = {"PATH": os.environ["PATH"], "GREETING": "hello"}
FOREVER = "import time; time.sleep(60)"


def python(code: str, log: Path | None = None, directory: str = "") -> Launch:
    return Launch((sys.executable, "-c", code), f"test:{uuid.uuid4().hex}:", ENVIRONMENT, directory, log)


async def ended(child: Child) -> str:
    async with asyncio.timeout(10):
        return await child.ended()


async def line(log: Path, seconds: float = 10.0) -> str:
    """The first whole line of a log."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if log.exists() and "\n" in (text := log.read_text()):
            return text.splitlines()[0]
        await asyncio.sleep(0.01)
    raise AssertionError(f"{log} stays empty")


async def test_it_runs_in_a_session_of_its_own_with_its_environment_directory_and_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import os, sys; print(os.getsid(0), os.getcwd(), os.environ['GREETING'], repr(sys.stdin.read()))"
    child = spawn(python(code, log, "/usr"))
    assert await ended(child) == "exited with code 0"
    assert log.read_text() == f"{child.pid} /usr hello ''\n"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


async def test_only_the_standard_streams_are_inherited(tmp_path: Path) -> None:
    log = tmp_path / "log"
    secret = (tmp_path / "secret").open("w")
    os.set_inheritable(secret.fileno(), True)
    child = spawn(
        python("import os; print(sorted(os.listdir('/proc/self/fd'))[:3], len(os.listdir('/proc/self/fd')))", log)
    )
    await ended(child)
    secret.close()
    assert log.read_text() == "['0', '1', '2'] 4\n", "0, 1, 2 and the directory that is being read"


@pytest.mark.parametrize(
    ("code", "said"),
    [("raise SystemExit(3)", "exited with code 3"), ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV")],
)
async def test_its_end_is_told(code: str, said: str) -> None:
    assert await ended(spawn(python(code))) == said


@pytest.mark.parametrize(
    ("launch", "why"),
    [
        (Launch(("no-such-program",), "m", ENVIRONMENT), "there is no program 'no-such-program'"),
        (Launch(("/etc/passwd",), "m", ENVIRONMENT), "may not be executed"),
        (Launch(("true",), "m", ENVIRONMENT, "/nowhere"), "/nowhere does not exist"),
        (Launch(("true\0",), "m", ENVIRONMENT), "cannot be started"),
        (Launch((), "m", ENVIRONMENT), "no command"),
    ],
)
async def test_a_start_that_fails_says_why(launch: Launch, why: str) -> None:
    with pytest.raises(StartFailed, match=why):
        spawn(launch)


async def test_secrets_in_the_environment_stay_out_of_texts() -> None:
    assert "hello" not in repr(python("pass"))


async def test_stop_asks_first_and_kills_after_the_grace_period(tmp_path: Path) -> None:
    polite = spawn(python(FOREVER))
    await polite.stop(5)
    assert await ended(polite) == "killed by SIGTERM"
    log = tmp_path / "log"
    ignore = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); {FOREVER}"
    stubborn = spawn(python(ignore, log))
    await line(log)
    began = time.monotonic()
    await stubborn.stop(0.3)
    assert await ended(stubborn) == "killed by SIGKILL"
    assert 0.3 <= time.monotonic() - began < 5


DAEMONS = """
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print("on", flush=True)
{end}
"""


@pytest.mark.parametrize("end", ["time.sleep(60)", "sys.exit(0)"], ids=["stopped", "ended by itself"])
async def test_no_descendant_is_left_whatever_its_session(end: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    launch = python(DAEMONS.format(end=end), log)
    child = spawn(launch)
    await line(log)
    assert marked(launch.mark)
    await child.stop(2)
    assert marked(launch.mark) == []


async def test_an_adopted_process_is_watched_and_stopped_too() -> None:
    launch = python(FOREVER)
    first = spawn(launch)
    identity = first.identity
    child = adopt(identity, launch.mark)
    assert child is not None and child.running
    await child.stop(2)
    assert "earlier agent" in await ended(child)
    await ended(first)
    assert adopt(identity, launch.mark) is None


async def test_a_reused_pid_is_not_adopted() -> None:
    child = spawn(python(FOREVER))
    assert adopt(ProcessMark(child.pid, child.identity.started - 1), child.mark) is None
    await child.stop(1)


async def test_marks_find_processes_and_nothing_else() -> None:
    child = spawn(python(FOREVER))
    assert mark_of(child.pid) == child.mark
    assert marked(child.mark) == [child.pid]
    assert marked(child.mark + "x") == []
    assert mark_of(os.getpid()) == "" and os.getpid() not in marked("")
    await child.stop(1)


async def test_closing_leaves_the_process_alone() -> None:
    child = spawn(python(FOREVER))
    child.close()
    assert child.identity.alive()
    os.killpg(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, 0)


WRAPPER = """
import signal, subprocess, sys, time
code = "import signal, sys, time\\ndef end(*_):\\n time.sleep(0.4); print('done', flush=True); sys.exit()\\n" \
    "signal.signal(signal.SIGTERM, end); print('on', flush=True); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", code])
time.sleep(60)
"""


async def test_a_process_behind_a_wrapper_has_its_grace_too(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = spawn(python(WRAPPER, log))
    await line(log)
    sweeping = asyncio.create_task(_sweep_when_ended(child))
    await child.stop(5)
    await sweeping
    assert log.read_text() == "on\ndone\n", "the wrapper died at once, the server ended in order"


async def _sweep_when_ended(child: Child) -> None:
    await child.ended()
    await child.sweep()


ORPHAN = """
import os, time
if os.fork() == 0:
    os.setsid()
    time.sleep(0.5)
"""
SUBREAPER = """
import asyncio, os, sys
from pathlib import Path
from headrace.agent.process import Launch, spawn
from headrace.agent.reaper import become_subreaper, watch

def children():
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()

async def main():
    assert become_subreaper()
    watch(asyncio.get_running_loop())
    parent = spawn(Launch((sys.executable, "-c", sys.argv[1]), "test:orphan:", dict(os.environ)))
    reason = await parent.ended()
    parent.close()
    print(reason, len(children()))
    for _ in range(200):
        if not children():
            print("collected")
            return
        await asyncio.sleep(0.02)

asyncio.run(main())
"""


def test_a_subreaper_collects_the_orphans_of_its_children() -> None:
    command = [sys.executable, "-c", SUBREAPER, ORPHAN]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert result.stdout == "exited with code 0 1\ncollected\n", result.stderr
