"""Whatever valid documents say, translation does not fail and the real Envoy accepts the result."""

from __future__ import annotations

import random
from pathlib import Path

from tests.goldens.random_documents import Documents

from headrace.app import offline
from headrace.envoy.validation import refusal

MESHES = 12
PROXIES = (
    ("sidecar/default/client", "transparent"),
    ("sidecar/default/chat", "transparent"),
    ("sidecar/default/chat", "loopback"),
    ("gateway/istio-system/door", "transparent"),
)


def test_envoy_accepts_what_random_documents_become(tmp_path: Path) -> None:
    sets, accepted = {}, 0
    for seed in range(MESHES):
        path = tmp_path / f"{seed}.yaml"
        path.write_text(Documents(random.Random(seed)).text())
        mesh = offline.load([path])
        accepted += len(mesh.snapshot.virtual_services) + len(mesh.snapshot.destination_rules)
        for name, capture in PROXIES:
            proxy = offline.find_proxy(mesh.snapshot, offline.ProxyName.parse(name), offline.capture_of(capture))
            sets[f"{seed}/{name}/{capture}"] = offline.translate(mesh, proxy)
    assert accepted > MESHES * 4, "most of the documents are valid, or this test shows nothing"
    assert refusal(sets) is None
