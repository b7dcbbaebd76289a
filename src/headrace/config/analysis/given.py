"""What `istioctl analyze` takes for given where documents describe a cluster: Istio's ingress gateway.

Called by `index`. A mesh that Headrace runs has no such thing: it starts the gateways that Gateway documents ask for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from headrace.config.analysis.written import text
from headrace.config.documents import Document, read_text
from headrace.config.schema import validate

SOURCE = "what istioctl analyze takes for given"
_PORTS = {"http2": 80, "https": 443, "tcp": 31400, "tls": 15443}


def given(mesh_fields: Mapping[str, Any]) -> list[tuple[Document, object]]:
    """The documents of the ingress gateway, and their resources; none where MeshConfig has it off."""
    if text(mesh_fields, "ingressControllerMode") == "OFF":
        return []
    name = text(mesh_fields, "ingressService") or "istio-ingressgateway"
    found = _gateway(name)
    return [(document, resource) for document, resource in found if resource is not None]


@lru_cache(maxsize=8)
def _gateway(name: str) -> list[tuple[Document, object]]:
    ports = ", ".join(f"{{name: {port}, port: {number}, protocol: TCP}}" for port, number in _PORTS.items())
    documents = read_text(
        f"""
apiVersion: v1
kind: Pod
metadata: {{name: {json.dumps(f"{name}-dummypod")}, namespace: istio-system, labels: {{istio: ingressgateway}}}}
spec: {{containers: [{{name: istio-proxy}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: {json.dumps(name)}, namespace: istio-system}}
spec: {{selector: {{istio: ingressgateway}}, ports: [{ports}]}}
""",
        SOURCE,
        SOURCE,
    ).documents
    return [(document, validate(document).resource) for document in documents]
