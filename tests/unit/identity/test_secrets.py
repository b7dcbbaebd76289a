"""Secrets for Envoy: the right fields, and a key that shows nowhere but in the body."""

from __future__ import annotations

from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from headrace.envoy.resources import SECRET
from headrace.envoy.secrets import validation_secret, workload_secret


def test_a_workload_secret_holds_chain_and_key() -> None:
    resource = workload_secret("default", "CHAIN", b"THE-KEY")
    secret = Secret.FromString(resource.body)
    assert (resource.type_url, resource.name, secret.name) == (SECRET, "default", "default")
    assert secret.tls_certificate.certificate_chain.inline_bytes == b"CHAIN"
    assert secret.tls_certificate.private_key.inline_bytes == b"THE-KEY"
    assert "KEY" not in repr(resource)
    assert "KEY" not in f"{[resource]}"


def test_the_version_follows_the_certificate_and_not_the_key() -> None:
    first, again = workload_secret("default", "CHAIN", b"KEY-A"), workload_secret("default", "CHAIN", b"KEY-B")
    assert first.version == again.version
    assert len(first.version) == 16
    assert workload_secret("default", "CHAIN 2", b"KEY-A").version != first.version


def test_a_validation_secret_holds_the_roots() -> None:
    resource = validation_secret("ROOTCA", "BUNDLE")
    secret = Secret.FromString(resource.body)
    assert secret.name == "ROOTCA"
    assert secret.validation_context.trusted_ca.inline_bytes == b"BUNDLE"
    assert validation_secret("ROOTCA", "BUNDLE").body == resource.body
    assert validation_secret("ROOTCA", "OTHER").version != resource.version
