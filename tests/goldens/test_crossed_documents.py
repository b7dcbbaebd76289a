"""Properties that hold for any documents of any kinds: translation does not fail, Envoy accepts the result, the order
of documents changes nothing, and what is private to a namespace changes nothing for others.

HEADRACE_MESHES=N tries N meshes (`HEADRACE_MESHES=500 pytest tests/goldens/test_crossed_documents.py`)."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest
from tests.goldens.crossed_documents import Crossed, Data, pool, text_of

from headrace.app import offline
from headrace.config.documents import read_text
from headrace.config.schema import INTERNAL_ERROR, validate
from headrace.envoy.resources import ResourceSet
from headrace.envoy.validation import refusal

MESHES = int(os.environ.get("HEADRACE_MESHES", "24"))
FIRST = int(os.environ.get("HEADRACE_FIRST_MESH", "0"))
SEEDS = range(FIRST, FIRST + MESHES)
PROXIES = (
    ("sidecar/default/client", "transparent"),
    ("sidecar/default/chat", "transparent"),
    ("sidecar/default/chat", "loopback"),
    ("gateway/istio-system/door", "transparent"),
)


def translated(documents: list[Data], path: Path) -> dict[str, ResourceSet]:
    """What every proxy would be sent."""
    path.write_text(text_of(documents))
    mesh = offline.load([path])
    found = {}
    for name, capture in PROXIES:
        proxy = offline.find_proxy(mesh.snapshot, offline.ProxyName.parse(name), offline.capture_of(capture))
        found[f"{name} {capture}"] = offline.translate(mesh, proxy)
    return found


def bodies(found: dict[str, ResourceSet]) -> dict[tuple[str, str, str], bytes]:
    return {
        (proxy, type_url, name): resource.body
        for proxy, resources in found.items()
        for type_url, items in resources.by_type.items()
        for name, resource in items.items()
    }


def changed(one: dict[str, ResourceSet], other: dict[str, ResourceSet]) -> list[tuple[str, str, str]]:
    before, after = bodies(one), bodies(other)
    return sorted(key for key in {**before, **after} if before.get(key) != after.get(key))


def test_most_crossings_are_valid_and_of_every_kind() -> None:
    kinds: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    for seed in range(150):
        text = text_of(Crossed(random.Random(seed)).mesh())
        for document in read_text(text, "x.yaml", "x").documents:
            found = validate(document)
            assert not [problem for problem in found.problems if problem.code == INTERNAL_ERROR], found.problems
            kinds[document.kind] += 1
            accepted[document.kind] += found.resource is not None
    assert set(pool()) <= set(kinds) | {"ServiceAccount"}
    assert sum(accepted.values()) > sum(kinds.values()) * 0.6
    assert [kind for kind in kinds if not accepted[kind]] == []


def test_envoy_accepts_whatever_documents_become(tmp_path: Path) -> None:
    sets = {}
    for seed in SEEDS:
        for name, resources in translated(Crossed(random.Random(seed)).mesh(), tmp_path / f"{seed}.yaml").items():
            sets[f"{seed} {name}"] = resources
    assert refusal(sets) is None


@pytest.mark.parametrize("seed", SEEDS)
def test_the_order_of_documents_changes_nothing(seed: int, tmp_path: Path) -> None:
    crossed = Crossed(random.Random(seed))
    documents = crossed.mesh()
    one = translated(documents, tmp_path / "one.yaml")
    other = translated(crossed.shuffled(documents), tmp_path / "other.yaml")
    assert changed(one, other) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_private_to_a_namespace_changes_nothing_for_others(seed: int, tmp_path: Path) -> None:
    crossed = Crossed(random.Random(seed))
    documents = crossed.mesh()
    private = [crossed.private(20 + number) for number in range(6)]
    without = translated(documents, tmp_path / "without.yaml")
    beside = translated([*documents, *private], tmp_path / "with.yaml")
    assert changed(without, beside) == []
