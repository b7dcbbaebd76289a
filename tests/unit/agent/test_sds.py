"""What the agent gives its Envoys: nothing before it knows who is revoked, everything again after each change."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from headrace.agent.sds import RevokedFile, SecretStore, revoked_text
from headrace.envoy.resources import SECRET
from headrace.floor.clock import SystemClock
from headrace.identity.attest import Assigned
from headrace.identity.crl import Reason
from headrace.identity.issuer import Issuer
from headrace.identity.keys import PrivateKey
from headrace.identity.ledger import Ledger
from headrace.identity.roots import Roots
from headrace.identity.rotation import WorkloadCertificate, accept
from headrace.identity.trust import ListRules, Trust
from headrace.model.identity import Identity
from headrace.wire import agent_v1_pb2 as wire

CHAT = Identity("cluster.local", "default", "chat")


class Authority:
    def __init__(self, directory: Path) -> None:
        clock = SystemClock()
        ledger = Ledger.open(directory / "ledger.sqlite")
        self.trust = Trust(Roots.open(directory / "ca", "cluster.local", clock), ledger, clock, ListRules())
        self._issuer = Issuer(self, self.trust, ledger, clock)

    def assigned(self, replica_id: str) -> Assigned | None:
        return Assigned("here", CHAT)

    def certificate(self) -> WorkloadCertificate:
        key = PrivateKey.generate()
        return accept(key, CHAT, self._issuer.issue("here", "default/chat-0", key.csr(CHAT)))

    def state(self, **changes: object) -> wire.TrustState:
        state = self.trust.state
        return wire.TrustState(
            **{"version": state.version, "trust_bundle_pem": state.bundle_pem, "issuer": state.issuer} | changes  # type: ignore[arg-type]
        )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def roots(store: SecretStore) -> Secret:
    found = store.resources_for("default/chat-0")
    assert found is not None
    return Secret.FromString(found.by_type[SECRET]["ROOTCA"].body)


def test_nothing_is_sent_before_the_control_plane_said_who_is_revoked(authority: Authority) -> None:
    store = SecretStore(SystemClock())
    store.put("default/chat-0", authority.certificate())
    assert store.resources_for("default/chat-0") is None
    store.trust(authority.state(revocation_lists_pem="LIST"))
    context = roots(store).validation_context
    assert context.crl.inline_bytes == b"LIST"
    assert context.only_verify_leaf_cert_crl
    store.put("default/chat-0", authority.certificate())
    assert roots(store).validation_context.crl.inline_bytes == b"LIST"
    store.trust(authority.state(version="newer"))
    assert not roots(store).validation_context.HasField("crl")


def test_an_older_control_plane_says_nothing_and_the_mesh_works(authority: Authority) -> None:
    store = SecretStore(SystemClock())
    certificate = authority.certificate()
    store.put("default/chat-0", certificate)
    store.untold()
    assert roots(store).validation_context.trusted_ca.inline_bytes == certificate.bundle_pem.encode()


def test_the_guard_s_file_is_there_from_the_start_and_replaced_whole(authority: Authority, tmp_path: Path) -> None:
    file = tmp_path / "told" / "revoked"
    store = SecretStore(SystemClock(), RevokedFile(file))
    assert file.read_bytes() == revoked_text([], []) == b"headrace-revoked 1\n"
    first = file.stat().st_ino
    store.trust(authority.state(version="x", revoked_identities=["b", "a"], revoked_certificates=["0f"]))
    assert file.read_text() == "headrace-revoked 1\nidentity a\nidentity b\ncertificate 0f\n"
    assert file.stat().st_ino != first
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent)] == [0o600, 0o700]
    assert SecretStore(SystemClock(), RevokedFile(file)).resources_for("x") is None
    assert "identity a" in file.read_text(), "a new agent forgets nobody before it was told"
    RevokedFile(file, shared=True).write(b"x")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent)] == [0o644, 0o755]


def test_a_certificate_is_outdated_when_revoked_or_of_another_authority(authority: Authority) -> None:
    store = SecretStore(SystemClock())
    certificate = authority.certificate()
    assert not store.is_outdated(certificate)
    store.trust(authority.state())
    assert not store.is_outdated(certificate)
    store.trust(authority.state(version="a", issuer="00ff"))
    assert store.is_outdated(certificate)
    authority.trust.revoke_serial(certificate.serial, Reason.SUPERSEDED)
    digest = authority.trust.state.fingerprints[0]
    store.trust(authority.state(version="b", revoked_certificates=[digest]))
    assert store.is_outdated(certificate)
    assert not store.is_outdated(authority.certificate())
