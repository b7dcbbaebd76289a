"""Whole meshes for end-to-end tests: started once a module, taken down in every case, and looked over for leftovers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest
from tests.e2e.running import RunningMesh

StartMesh = Callable[..., RunningMesh]


@pytest.fixture(scope="module")
def start_mesh() -> Iterator[StartMesh]:
    """Starts a mesh of files (name → text) with options of `up`; all are stopped at the module's end."""
    started: list[RunningMesh] = []

    def start(files: Mapping[str, str], *options: str) -> RunningMesh:
        mesh = RunningMesh.make(files)
        started.append(mesh)
        mesh.up(*options)
        return mesh

    yield start
    problems = []
    for mesh in started:
        try:
            mesh.down()
        except AssertionError as error:
            problems.append(f"{error}\n{mesh.logs()}")
        finally:
            mesh.remove()
    assert not problems, "\n".join(problems)
