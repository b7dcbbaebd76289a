"""Nothing that lands in the followed directory stops the mesh: each file gets a clear problem of its own, the last good
revision stays in force, and traffic goes on."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator

import pytest
import yaml
from tests.e2e.conftest import StartMesh
from tests.e2e.load import Load, burst, through_client
from tests.e2e.mutations import MUTATIONS, mutated
from tests.e2e.running import RunningMesh, until
from tests.e2e.shop import EXAMPLE, shop, weights

SEED = 20261121
WORDS = {
    "bomb": "aliases",
    "ten-megabytes": "larger than",
    "link-loop": "symbolic link",
    "not-utf-8": "not UTF-8",
    "a-pipe": "not a regular file",
    "no-permission": "may not be read",
}
"""What the problem of each monster must say."""
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + level)}: &{chr(98 + level)} [{', '.join([f'*{chr(97 + level)}'] * 9)}]\n" for level in range(9)
)


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh) -> RunningMesh:
    return start_mesh(shop(100, 0))


@pytest.fixture(scope="module")
def load(mesh: RunningMesh) -> Iterator[Load]:
    """Traffic during the whole module."""
    with Load(through_client(mesh), rate=40) as load:
        yield load
    print(f"hostile input: {load.tally}")
    assert load.tally.failed == 0, load.tally
    assert load.tally.sent > 60


def problems(mesh: RunningMesh, file: str) -> list[str]:
    """The problems of the status that are about a file."""
    started = time.monotonic()
    found = [line for line in mesh.status()["problems"] if line.startswith(f"{mesh.documents}/{file}:")]
    assert time.monotonic() - started < 3.0, "the control plane hangs"
    return found


def example_documents() -> list[dict[str, object]]:
    """The canary example's documents."""
    texts = [path.read_text() for path in sorted(EXAMPLE.glob("*.yaml"))]
    return [data for text in texts for data in yaml.safe_load_all(text)]


def test_two_hundred_mutated_documents(mesh: RunningMesh, load: Load) -> None:
    spoiled = mutated(example_documents(), 200, SEED)
    assert {name for name, _ in spoiled} == {mutation.__name__ for mutation in MUTATIONS}
    before = mesh.run("get", "all", "-o", "json").json()
    names = {}
    for number, (kind, text) in enumerate(spoiled):
        names[f"spoiled/{number:03}.yaml"] = kind
        path = mesh.documents / "spoiled" / f"{number:03}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text)
        if number % 20 == 19:
            until(lambda path=path: problems(mesh, f"spoiled/{path.name}"), f"a problem of {path.name} ({kind})")
    silent = [f"{name} ({kind})" for name, kind in names.items() if not problems(mesh, name)]
    assert not silent, silent
    vague = [line for line in mesh.status()["problems"] if len(line) > 1000 or "\n" in line or "\x1b" in line]
    assert not vague, vague[:3]
    errors = {name for name in names if any(" error " in line for line in problems(mesh, name))}
    assert len(errors) == 200, sorted(set(names) - errors)
    assert not list(mesh.root.rglob("hacked"))
    assert mesh.run("get", "all", "-o", "json").json() == before
    load.run_on(40)
    for path in (mesh.documents / "spoiled").iterdir():
        path.unlink()
    until(lambda: not any("spoiled/" in line for line in mesh.status()["problems"]), "all is well again")


def test_the_last_good_revision_of_a_spoiled_document_stays(mesh: RunningMesh, load: Load) -> None:
    good = weights(100, 0)
    data = yaml.safe_load(good)
    for kind, text in mutated([data], len(MUTATIONS), SEED + 1):
        (mesh.documents / "routes.yaml").write_bytes(re.sub(rb"spoiled-\d+", b"chat", text))
        found = until(lambda: problems(mesh, "routes.yaml"), f"a problem of {kind}")
        assert any(" error " in line for line in found), found
        assert burst(through_client(mesh), 10).models() == {"v1": 10}, kind
        mesh.write("routes.yaml", good)
        until(lambda: not problems(mesh, "routes.yaml"), "all is well again")
    mesh.write("routes.yaml", weights(0, 100))
    until(lambda: burst(through_client(mesh), 5).models() == {"v2": 5}, "the mended document is in force")
    assert not problems(mesh, "routes.yaml")


@pytest.mark.parametrize("name", list(WORDS))
def test_monsters(mesh: RunningMesh, load: Load, name: str) -> None:
    path = mesh.documents / f"{name}.yaml"
    match name:
        case "bomb":
            path.write_text(BOMB)
        case "ten-megabytes":
            mesh.write(path.name, weights(1, 99) + "# " + "x" * (10 << 20))
        case "link-loop":
            path = mesh.documents / "link-loop"
            path.mkdir()
            (path / "again").symlink_to(mesh.documents, target_is_directory=True)
            (path / "self.yaml").symlink_to(path / "self.yaml")
        case "not-utf-8":
            path.write_bytes(weights(1, 99).encode("utf-16"))
        case "a-pipe":
            os.mkfifo(path)
        case "no-permission":
            path.symlink_to("/proc/1/mem")
    sent = load.tally.sent
    found = until(lambda: problems(mesh, path.name) or problems_below(mesh, path.name), f"a problem of {name}")
    print(f"{name}: {found[0]}")
    assert WORDS[name] in found[0]
    assert all(len(line) < 1000 for line in found)
    load.run_on(20)
    assert load.tally.sent > sent and load.tally.failed == 0
    if path.is_dir():
        for item in path.iterdir():
            item.unlink()
        path.rmdir()
    else:
        path.unlink()
    mesh.write("touched.yaml", "# so that the directory is read again, whatever kinds of files are watched\n")
    until(lambda: not (problems(mesh, path.name) or problems_below(mesh, path.name)), "all is well again")
    (mesh.documents / "touched.yaml").unlink()


def problems_below(mesh: RunningMesh, directory: str) -> list[str]:
    """The problems of the status that are about a directory or what is in it."""
    return [line for line in mesh.status()["problems"] if line.startswith(f"{mesh.documents}/{directory}/")]
