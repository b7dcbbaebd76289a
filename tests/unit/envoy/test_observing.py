"""What a scope's proxies say of their traffic: the provider that nobody needs to declare."""

from __future__ import annotations

from headrace.config.documents import read_text
from headrace.config.store import ConfigStore
from headrace.envoy.observing import observed
from headrace.model.telemetry import Telemetry

DOCUMENT = """
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: logs}
spec: {accessLogging: [{providers: [{name: envoy}]}]}
"""
MESH = """
---
apiVersion: headrace.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {}
"""


def test_the_log_of_envoy_is_there_without_a_mesh_config() -> None:
    said = []
    for text in (DOCUMENT, DOCUMENT + MESH):
        store = ConfigStore()
        revision = store.replace_source("test", read_text(text, "file.yaml", "test"))
        documents = [item for item in revision.resources.values() if isinstance(item, Telemetry)]
        said.append(observed(revision.mesh, documents, {}))
    assert said[0] == said[1]
    for side in (said[0].client, said[0].server):
        assert [(log.provider.name, log.provider.path) for log in side.logs or ()] == [("envoy", "/dev/stdout")]
