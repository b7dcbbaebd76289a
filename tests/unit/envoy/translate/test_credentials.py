"""Secrets of injected credentials: what is sent and to whom, and that neither text nor version tells the value."""

from __future__ import annotations

from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from tests.unit.registry.meshes import Mesh, entry, meta

from headrace.envoy.resources import SECRET, XdsResource
from headrace.envoy.scopes import Scopes, view_of
from headrace.envoy.translate import Translator
from headrace.model.credential import Credential
from headrace.model.identity import Identity
from headrace.model.inference import InferencePolicy
from headrace.model.proxy import Proxy, ProxyKind
from headrace.model.security import Secret

VALUE = b"sk-4f1c9a7be2"


def secret_of(value: bytes, salt: bytes = b"", namespace: str = "default") -> XdsResource | None:
    """The secret that a sidecar of `namespace` is sent."""
    policy = InferencePolicy(
        meta("headrace.dev/InferencePolicy", "api"), (), credential=Credential("key"), entries=("api.example",)
    )
    mesh = Mesh().put(entry("api.example"), policy, Secret(meta("Secret", "key"), {"token": value}))
    proxy = Proxy(ProxyKind.SIDECAR, "a", "a", Identity("cluster.local", namespace, "a"), {}, ("127.0.0.2",))
    return (
        Translator(salt=salt)
        .resources(view_of(mesh.snapshot(), proxy, Scopes()))
        .of_type(SECRET)
        .get("credential://default/api")
    )


def test_the_value_is_sent_and_not_shown() -> None:
    found = secret_of(VALUE)
    assert found is not None
    message = secret_pb2.Secret.FromString(found.body)
    assert message.generic_secret.secret.inline_bytes == b"Bearer " + VALUE
    assert VALUE.decode() not in repr(found)


def test_what_cannot_be_used_is_sent_as_nothing() -> None:
    found = secret_of(VALUE + b"\nx-admin: yes")
    assert found is not None
    assert secret_pb2.Secret.FromString(found.body).generic_secret.secret.inline_bytes == b""


def test_another_namespace_gets_none() -> None:
    assert secret_of(VALUE, namespace="other") is None


def test_a_version_follows_the_value_and_tells_nothing_without_the_salt() -> None:
    one, again, other, salted = (
        secret_of(VALUE, b"s"),
        secret_of(VALUE, b"s"),
        secret_of(b"x", b"s"),
        secret_of(VALUE, b"t"),
    )
    assert one is not None and again is not None and other is not None and salted is not None
    assert one.version == again.version
    assert len({one.version, other.version, salted.version}) == 3
