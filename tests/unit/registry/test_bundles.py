"""CA certificates in ConfigMaps reach the proxies that follow a rule, and only where the rule may name them."""

from __future__ import annotations

from headrace.config.documents import read_text
from headrace.config.store import ConfigStore
from headrace.registry.build import build_snapshot

TEXT = """
apiVersion: v1
kind: ConfigMap
metadata: {name: ca, namespace: shop}
data: {ca.crt: pem, other: text}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: chat, namespace: shop}
spec: {host: chat, trafficPolicy: {tls: {mode: SIMPLE, credentialName: "configmap://shop/ca"}}}
"""


def test_a_rule_finds_the_bundle_of_its_namespace() -> None:
    store = ConfigStore()
    snapshot = build_snapshot(store.replace_source("t", read_text(TEXT, "t.yaml", "t")), {})
    assert {name: item.data for name, item in snapshot.credentials.items()} == {
        "configmap://shop/ca": {"ca.crt": b"pem"}
    }
    again = build_snapshot(store.replace_source("t", read_text(TEXT + "---\n", "t.yaml", "t")), {}, snapshot)
    assert again.credentials is snapshot.credentials


def test_a_bundle_that_nobody_names_stays_where_it_is() -> None:
    text = TEXT.replace("configmap://shop/ca", "other")
    assert build_snapshot(ConfigStore().replace_source("t", read_text(text, "t.yaml", "t")), {}).credentials == {}
