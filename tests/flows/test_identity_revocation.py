"""Revocation in real Envoys: new handshakes, live connections in both directions, and the traps of revocation lists."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from tests.flows.envoy_process import EnvoyProcess, wait_until
from tests.flows.guard_rig import GuardRig, guard_rig, needs_guard, with_intermediate
from tests.flows.identity_rig import CLIENT, SERVER, STRANGER

from headrace.envoy.secrets import validation_secret
from headrace.floor.clock import SystemClock
from headrace.identity.crl import Reason
from headrace.identity.roots import Roots
from headrace.identity.rotation import WorkloadCertificate
from headrace.identity.trust import ListRules, TrustState
from headrace.identity.trust import Trust as MeshTrust

pytestmark = needs_guard


@pytest.fixture
def rig() -> Iterator[GuardRig]:
    with guard_rig() as made:
        yield made


def digest(certificate: WorkloadCertificate) -> str:
    leaf = x509.load_pem_x509_certificates(certificate.chain_pem.encode())[0]
    return leaf.fingerprint(hashes.SHA256()).hex()


def trust_of(rig: GuardRig) -> MeshTrust:
    roots = Roots.open(rig.trust.directory, "cluster.local", SystemClock(), create=False)
    return MeshTrust(roots, rig.trust.ledger, SystemClock(), ListRules())


def counter(envoy: EnvoyProcess, name: str) -> int:
    return sum(envoy.stats(f"{name}$").values())


def send(rig: GuardRig, state: TrustState) -> None:
    """Hand a state to both Envoys, as their agent does, and wait until its lists are in force."""
    rig.tell(identities=list(state.identities), certificates=list(state.fingerprints))
    rig.lists(state.crl_pem)
    version = validation_secret("ROOTCA", rig.trust.authority.bundle_pem, state.crl_pem).version
    for envoy in (rig.client, rig.server):
        wait_until(lambda envoy=envoy: rig.in_force(envoy, "ROOTCA") == version, "the lists are in force")


def refused(rig: GuardRig, certificate: WorkloadCertificate) -> bool:
    """Whether a request with this certificate gets no answer (TLS 1.3 tells a client after its handshake)."""
    try:
        with (
            socket.create_connection(("127.0.0.1", rig.server_port), 10) as plain,
            rig.context(certificate).wrap_socket(plain) as secured,
        ):
            secured.settimeout(10)
            secured.sendall(b"GET / HTTP/1.1\r\nhost: server\r\n\r\n")
            return b"200 OK" not in secured.recv(4096)
    except (ssl.SSLError, ConnectionError):
        return True


def test_live_connections_of_a_revoked_client_are_closed_and_no_others(rig: GuardRig) -> None:
    other = rig.trust.pair(STRANGER)
    own, foreign = rig.stream_as(rig.certificates["client"]), rig.stream_as(other)
    own.flows()
    foreign.flows()
    began = time.monotonic()
    rig.tell(identities=[CLIENT.uri])
    assert own.ended() - began < 2.0
    foreign.flows()
    assert counter(rig.server, "guard_closed") >= 1
    assert refused(rig, rig.certificates["client"]), "the guard refuses also where no list is in force"
    assert counter(rig.server, "guard_refused") >= 1
    assert not refused(rig, other)
    foreign.close()


def test_by_certificate_only_that_one_is_closed(rig: GuardRig) -> None:
    stolen, renewed = rig.trust.pair(STRANGER), rig.trust.pair(STRANGER)
    first, second = rig.stream_as(stolen), rig.stream_as(renewed)
    first.flows()
    second.flows()
    began = time.monotonic()
    rig.tell(certificates=[digest(stolen)])
    assert first.ended() - began < 2.0
    second.flows()
    assert refused(rig, stolen)
    assert not refused(rig, renewed)
    second.close()


@pytest.mark.parametrize("by", ["identity", "certificate"])
def test_what_a_revoked_server_has_under_way_is_ended_by_its_clients(rig: GuardRig, by: str) -> None:
    stream = rig.stream_through()
    stream.flows()
    # The server's own Envoy is not asked: it may be in the wrong hands. So it is told of nobody that concerns it.
    began = time.monotonic()
    if by == "identity":
        rig.tell(identities=[SERVER.uri])
    else:
        rig.tell(certificates=[digest(rig.certificates["server"])])
    assert stream.ended() - began < 2.0
    assert counter(rig.server, "guard_closed") == 0
    assert rig.ask() == 503, "also where neither a list nor the endpoints say so yet"


@pytest.mark.parametrize("by", ["identity", "certificate"])
def test_a_tcp_connection_to_a_revoked_server_is_closed(by: str) -> None:
    with guard_rig(tcp=True) as rig:
        stream = rig.stream_through()
        stream.flows()
        began = time.monotonic()
        if by == "identity":
            rig.tell(identities=[SERVER.uri])
        else:
            rig.tell(certificates=[digest(rig.certificates["server"])])
        assert stream.ended() - began < 2.0
        assert counter(rig.client, "guard_closed") == 1


def test_new_handshakes_are_refused_by_the_list_in_both_directions(rig: GuardRig) -> None:
    trust, other = trust_of(rig), rig.trust.pair(STRANGER)
    stream = rig.stream_as(other)
    stream.flows()
    state = trust.revoke_serial(rig.certificates["client"].serial, Reason.KEY_COMPROMISE)[1]
    send(rig, TrustState(state.bundle_pem, state.crl_pem))  # no guards: the list alone
    assert refused(rig, rig.certificates["client"])
    assert not refused(rig, other)
    stream.flows()
    state = trust.revoke_serial(rig.certificates["server"].serial, Reason.SUPERSEDED)[1]
    rig.certificates["client"] = rig.trust.pair(CLIENT)
    rig.secrets["client"].put_pair("default", rig.certificates["client"])
    send(rig, TrustState(state.bundle_pem, state.crl_pem))
    before = counter(rig.client, "cluster.right.ssl.fail_verify_error")
    wait_until(lambda: rig.ask() == 503, "the client's Envoy refuses the server", 30.0)
    assert counter(rig.client, "cluster.right.ssl.fail_verify_error") > before
    stream.flows()
    stream.close()


def test_a_resumed_session_is_refused_too(rig: GuardRig) -> None:
    certificate = rig.certificates["client"]
    context = rig.context(certificate)

    def connected(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool]:
        with (
            socket.create_connection(("127.0.0.1", rig.server_port), 10) as plain,
            context.wrap_socket(plain, session=session) as secured,
        ):
            secured.sendall(b"GET / HTTP/1.1\r\nhost: server\r\n\r\n")
            assert b"200 OK" in secured.recv(4096)
            return secured.session, bool(secured.session_reused)

    session, _ = connected(None)
    assert connected(session)[1], "this server resumes no sessions: the test shows nothing"
    state = trust_of(rig).revoke_serial(certificate.serial, Reason.KEY_COMPROMISE)[1]
    send(rig, TrustState(state.bundle_pem, state.crl_pem))
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        connected(session)


def test_lists_come_and_go_while_streams_run(rig: GuardRig) -> None:
    """An empty list, twenty updates, and none again: nobody who is not revoked notices."""
    trust = trust_of(rig)
    streams = [rig.stream_through(), rig.stream_as(rig.trust.pair(STRANGER))]
    authority = trust.roots.signer
    for number in range(20):
        pem = authority.revocation_list([], number + 1, time.time(), 3600.0)
        send(rig, TrustState(trust.state.bundle_pem, pem))
        assert rig.ask() == 200
        assert not refused(rig, rig.trust.pair(STRANGER))
    send(rig, TrustState(trust.state.bundle_pem, ""))
    assert rig.ask() == 200
    for stream in streams:
        stream.flows()
        assert stream.ended_at is None
        stream.close()


def test_an_expired_list_would_refuse_everybody(rig: GuardRig) -> None:
    """Why lists live long and are renewed early: shown, so that nobody shortens them without knowing."""
    trust = trust_of(rig)
    pem = trust.roots.signer.revocation_list([], 1, time.time() - 7200.0, 3600.0)
    send(rig, TrustState(trust.state.bundle_pem, pem))
    assert refused(rig, rig.trust.pair(STRANGER))
    send(rig, TrustState(trust.state.bundle_pem, trust.roots.signer.revocation_list([], 2, time.time(), 3600.0)))
    assert not refused(rig, rig.trust.pair(STRANGER))


def test_an_intermediate_s_list_refuses_only_the_revoked() -> None:
    with guard_rig(with_intermediate) as rig:
        chain = x509.load_pem_x509_certificates(rig.certificates["client"].chain_pem.encode())
        assert len(chain) == 2, "the leaf comes with the intermediate"
        trust = trust_of(rig)
        assert trust.problems() == []
        stolen, good = rig.trust.pair(STRANGER), rig.trust.pair(STRANGER)
        state = trust.revoke_serial(stolen.serial, Reason.KEY_COMPROMISE)[1]
        assert state.crl_pem.count("BEGIN X509 CRL") == 1
        send(rig, TrustState(state.bundle_pem, state.crl_pem))
        assert refused(rig, stolen)
        assert not refused(rig, good)
        assert rig.ask() == 200


def test_what_the_guard_reads_may_be_anything(rig: GuardRig) -> None:
    """A file of another version, of rubbish, or none: traffic goes on, and what was revoked stays so."""
    rig.tell(identities=[STRANGER.uri])
    stranger = rig.trust.pair(STRANGER)
    wait_until(lambda: refused(rig, stranger), "the stranger is refused")
    file = rig.work / "revoked"
    for content in (b"", b"headrace-revoked 9\nidentity x\n", b"\xff\x00" * 5000):
        file.write_bytes(content)
        time.sleep(0.25)
        assert rig.ask() == 200
        assert refused(rig, stranger)
    file.unlink()
    time.sleep(0.25)
    assert refused(rig, stranger)
    rig.tell()
    wait_until(lambda: not refused(rig, stranger), "lifted")
