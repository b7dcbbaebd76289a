"""The program that puts a process into its namespace: what the process has afterwards, and what it has not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.agent.netns import enter, links
from headrace.agent.netns.support import obstacle

pytestmark = pytest.mark.skipif(bool(obstacle()), reason=f"network namespaces are impossible here: {obstacle()}")
USER = 0x5A00_7777
TELL = """\
import json, os, socket
status = dict(line.split(":", 1) for line in open("/proc/self/status") if line.startswith(("Cap", "NoNew")))
def seen(path):
    try:
        return open(path).read()
    except OSError as error:
        return type(error).__name__
print(json.dumps({"uid": os.getresuid(), "groups": os.getgroups(), "cwd": os.getcwd(), "host": socket.gethostname(),
    "env": dict(os.environ), "status": {name: value.strip() for name, value in status.items()},
    "interfaces": sorted(name for _, name in socket.if_nameindex()), "seen": {p: seen(p) for p in PATHS},
    "descriptors": sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}"))}))
"""


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"hrt-enter-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True, timeout=20)
    yield name
    subprocess.run(["ip", "netns", "delete", name], check=True, timeout=20)


@pytest.fixture
def closed() -> Iterator[Path]:
    """A directory that only its owner may enter, with two others inside."""
    with tempfile.TemporaryDirectory(prefix="hr-enter-") as name:
        root = Path(name)
        root.chmod(0o700)
        for part in ("shown", "hidden", "etc"):
            (root / part).mkdir(mode=0o755)
            (root / part / "file").write_text(part)
        yield root


def run(namespace: str, command: list[str], environment: dict[str, str] | None = None, **facts: Any) -> Any:
    told = {"namespace": str(links.namespace_path(namespace)), "user": USER, "name": "chat-0", "files": []}
    told |= {"reveal": [sys.prefix, sys.base_prefix], **facts}
    directory = told.pop("cwd", "/")
    given = {f"{enter.PREFIX}{name}": value for name, value in (environment or {}).items()}
    launch = [sys.executable, "-I", "-S", enter.__file__, json.dumps(told), *command]
    return subprocess.run(launch, capture_output=True, text=True, timeout=60, env=given, cwd=directory)


def tell(namespace: str, paths: list[str], environment: dict[str, str] | None = None, **facts: Any) -> Any:
    done = run(namespace, [sys.executable, "-I", "-c", f"PATHS = {paths!r}\n{TELL}"], environment, **facts)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_becomes_its_user_without_any_privilege(namespace: str) -> None:
    found = tell(namespace, [])
    assert found["uid"] == [USER] * 3
    assert found["groups"] == []
    assert set(found["status"].values()) == {"0" * 16, "1"}
    assert found["status"]["NoNewPrivs"] == "1"
    assert found["interfaces"] == ["lo"]
    assert found["host"] == "chat-0"
    assert found["descriptors"] == [0, 1, 2]


def test_what_lies_below_a_closed_directory_is_shown_only_where_asked(namespace: str, closed: Path) -> None:
    paths = [str(closed / part / "file") for part in ("shown", "hidden")]
    before = tell(namespace, paths)["seen"]
    assert before == {paths[0]: "PermissionError", paths[1]: "PermissionError"}
    reveal = [sys.prefix, sys.base_prefix, str(closed / "shown")]
    found = tell(namespace, paths, reveal=reveal, cwd=str(closed / "shown"))
    assert found["seen"] == {paths[0]: "shown", paths[1]: "FileNotFoundError"}
    assert found["cwd"] == str(closed / "shown")
    assert (closed / "hidden/file").read_text() == "hidden", "the machine's own view must not change"


def test_a_file_in_another_place_is_there_for_this_process_only(namespace: str, closed: Path) -> None:
    (closed / "etc/file").write_text("nameserver 192.0.2.1\n")
    found = tell(namespace, ["/etc/resolv.conf"], files=[[str(closed / "etc/file"), "/etc/resolv.conf"]])
    assert found["seen"]["/etc/resolv.conf"] == "nameserver 192.0.2.1\n"
    assert Path("/etc/resolv.conf").read_text() != "nameserver 192.0.2.1\n"


def test_no_variable_of_a_document_acts_while_it_is_root(namespace: str, closed: Path) -> None:
    """Python would run a `sitecustomize` of PYTHONPATH, the loader what LD_PRELOAD names: for the process alone."""
    mark = closed / "ran-as"
    (closed / "shown/sitecustomize.py").write_text(f"import os\nopen({str(mark)!r}, 'a').write(str(os.getuid()))\n")
    closed.chmod(0o711)
    environment = {"PYTHONPATH": str(closed / "shown"), "LD_PRELOAD": "/nonexistent.so", "PYTHONINSPECT": "1"}
    found = run(
        namespace,
        [sys.executable, "-I", "-S", "-c", "import json, os; print(json.dumps(list(os.environ)))"],
        environment,
    )
    assert not mark.exists()
    assert environment.keys() <= set(json.loads(found.stdout))
    assert found.stderr.count("LD_PRELOAD") == 1, "the loader complains for the process alone"


@pytest.mark.parametrize(("command", "code"), [("/no/such/program", 127), ("/etc/hostname", 126)])
def test_a_program_that_cannot_be_started_is_said(namespace: str, command: str, code: int) -> None:
    done = run(namespace, [command])
    assert done.returncode == code
    assert command in done.stderr and "Traceback" not in done.stderr


def test_a_namespace_that_is_gone_starts_nothing(namespace: str) -> None:
    done = run("hrt-nobody", [sys.executable, "-c", "print('started')"])
    assert done.returncode != 0
    assert "started" not in done.stdout
