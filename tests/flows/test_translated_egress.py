"""Istio's egress gateway: what a sidecar sends to an external API leaves the mesh at one gateway, which has the key."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from pathlib import Path

from tests.flows.test_translated_credentials import OLD, ask, provider, started
from tests.flows.translated_rig import free_port, mesh

GATEWAY = "127.0.85.4"
DOCUMENTS = """
apiVersion: v1
kind: Pod
metadata: {{name: way-out, namespace: egress, labels: {{istio: egressgateway}}}}
spec: {{serviceAccountName: way-out, containers: [{{name: proxy}}]}}
status: {{podIP: 127.0.85.4}}
---
apiVersion: v1
kind: Service
metadata: {{name: istio-egressgateway, namespace: egress}}
spec: {{selector: {{istio: egressgateway}}, ports: [{{name: tls, port: 443, targetPort: {gateway}}}]}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: way-out, namespace: egress}}
spec:
  selector: {{istio: egressgateway}}
  servers:
  - port: {{number: 443, name: tls, protocol: HTTPS}}
    hosts: [api.example]
    tls: {{mode: ISTIO_MUTUAL}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: way-out, namespace: egress}}
spec:
  host: istio-egressgateway.egress.svc.cluster.local
  subsets:
  - name: api
    trafficPolicy: {{portLevelSettings: [{{port: {{number: 443}}, tls: {{mode: ISTIO_MUTUAL, sni: api.example}}}}]}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: api, namespace: egress}}
spec:
  hosts: [api.example]
  ports:
  - {{name: http, number: 80, protocol: HTTP}}
  - {{name: out, number: 443, protocol: HTTPS}}
  resolution: STATIC
  endpoints: [{{address: 127.0.0.1, ports: {{http: 1, out: {port}}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: api, namespace: egress}}
spec:
  hosts: [api.example]
  gateways: [mesh, way-out]
  http:
  - match: [{{gateways: [mesh], port: 80}}]
    route: [{{destination: {{host: istio-egressgateway.egress.svc.cluster.local, subset: api, port: {{number: 443}}}}}}]
  - match: [{{gateways: [way-out], port: 443}}]
    route: [{{destination: {{host: api.example, port: {{number: 443}}}}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: api, namespace: egress}}
spec:
  host: api.example
  trafficPolicy:
    portLevelSettings: [{{port: {{number: 443}}, tls: {{mode: SIMPLE, sni: api.example, caCertificates: {ca}}}}}]
---
apiVersion: headrace.dev/v1alpha1
kind: InferencePolicy
metadata: {{name: api, namespace: egress}}
spec:
  targetRefs: [{{group: networking.istio.io, kind: ServiceEntry, name: api}}]
  credential: {{secretRef: {{name: api-key}}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: api-key, namespace: egress}}
data: {{token: {token}}}
---
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {{name: client}}
spec: {{command: [run], serviceAccountName: client}}
---
apiVersion: headrace.dev/v1alpha1
kind: Workload
metadata: {{name: stranger}}
spec: {{command: [run], serviceAccountName: stranger}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: way-out, namespace: egress}}
spec:
  selector: {{matchLabels: {{istio: egressgateway}}}}
  rules: [{{from: [{{source: {{principals: [cluster.local/ns/default/sa/client]}}}}]}}]
"""


async def test_only_the_gateway_has_the_key_and_only_its_callers_use_it(tmp_path: Path) -> None:
    async with provider(tmp_path) as api:
        token, gateway = base64.b64encode(OLD.encode()).decode(), free_port(GATEWAY)
        documents = DOCUMENTS.format(port=api.port, ca=api.ca, token=token, gateway=gateway)
        async with mesh(documents) as running:
            door = running.described("gateway/egress/way-out")
            door = replace(door, bind=GATEWAY, port_map=((443, gateway),), behind=())
            way_out, (client, envoy) = await asyncio.gather(running.run(door), started(running))
            assert await ask(client, authorization="Bearer of-the-application") == 200
            assert api.authorizations() == [f"Bearer {OLD}"]
            assert b"credential://" not in envoy.admin("/config_dump")
            assert b"credential://egress/api" in way_out.admin("/config_dump")
            stranger, _ = await started(running, "sidecar/default/stranger")
            assert await ask(stranger) == 403
            assert len(api.seen) == 1
