"""`spec.credential` of an InferencePolicy, and policies for ServiceEntries: what is accepted, what is refused."""

from __future__ import annotations

import pytest
from tests.unit.config.kinds.test_inference import POLICY, REFS, good, refused

from headrace.model.credential import Credential
from headrace.model.inference import TargetRef

ENTRY = "{group: networking.istio.io, kind: ServiceEntry, name: api}"
TO_ENTRY = f"targetRefs: [{ENTRY}]\n"
CREDENTIAL = "credential: {secretRef: {name: key}}\n"


def test_only_the_secret_must_be_named() -> None:
    policy = good(POLICY, REFS + CREDENTIAL)
    assert policy.credential == Credential("key", "", "Authorization", "Bearer ")
    assert (policy.targets, policy.entries) == ((TargetRef("", "Service", "chat"),), ())
    assert good(POLICY, REFS).credential is None


def test_all_of_it_for_an_entry() -> None:
    policy = good(POLICY, TO_ENTRY + 'credential: {secretRef: {name: k, key: t.x}, header: X-Api-Key, prefix: ""}')
    assert policy.credential == Credential("k", "t.x", "X-Api-Key", "")
    assert (policy.targets, policy.entries) == ((), ("api",))


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (REFS + "credential: {}", "spec.credential.secretRef"),
        (REFS + "credential: {secretRef: {}}", "spec.credential.secretRef.name"),
        (REFS + "credential: {secretRef: {name: k, namespace: other}}", "spec.credential.secretRef.namespace"),
        (REFS + "credential: {secretRef: {name: k, key: a/b}}", "spec.credential.secretRef.key"),
        (REFS + "credential: {secretRef: {name: k, key: 1.5}}", "spec.credential.secretRef.key"),
        (REFS + "credential: {secretRef: {name: k}, header: Host}", "spec.credential.header"),
        (REFS + 'credential: {secretRef: {name: k}, header: ":path"}', "spec.credential.header"),
        (REFS + "credential: {secretRef: {name: k}, header: Transfer-Encoding}", "spec.credential.header"),
        (REFS + 'credential: {secretRef: {name: k}, header: "a b"}', "spec.credential.header"),
        (REFS + 'credential: {secretRef: {name: k}, prefix: "a\\r\\nb: "}', "spec.credential.prefix"),
        (REFS + f"credential: {{secretRef: {{name: k}}, prefix: {'a' * 257}}}", "spec.credential.prefix"),
        (TO_ENTRY, "spec"),
        (TO_ENTRY + CREDENTIAL + "timeouts: {total: 1s}", "spec.timeouts"),
        (TO_ENTRY + CREDENTIAL + "retries: {attempts: 1}", "spec.retries"),
        (f"targetRefs: [{ENTRY}, {{kind: Service, name: chat}}]\n" + CREDENTIAL, "spec.targetRefs"),
        ("targetRefs: [{kind: ServiceEntry, name: api}]\n" + CREDENTIAL, "spec.targetRefs[0].group"),
        (
            REFS + f"admission: {{overflow: {{action: Redirect, backend: {ENTRY}}}}}",
            "spec.admission.overflow.backend.kind",
        ),
    ],
)
def test_what_cannot_be(spec: str, field: str) -> None:
    assert ("IST0106", field) in refused(POLICY, spec)
