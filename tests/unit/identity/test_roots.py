"""A change of roots: its phases, what is trusted and signs in each, and that a crash anywhere loses nothing."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from headrace.identity import roots as roots_module
from headrace.identity.crl import Reason, listed
from headrace.identity.keys import PrivateKey
from headrace.identity.ledger import Ledger
from headrace.identity.material import AuthorityError
from headrace.identity.roots import Phase, Roots, RotationRefused
from headrace.identity.trust import ListRules, Trust
from headrace.model.identity import Identity

CHAT = Identity("cluster.local", "default", "chat")


def opened(directory: Path, clock: Any, *, create: bool = True) -> Roots:
    return Roots.open(directory, "cluster.local", clock, create=create)


def signed_by(roots: Roots) -> x509.Certificate:
    key = x509.load_der_x509_csr(PrivateKey.generate().csr(CHAT)).public_key()
    return x509.load_pem_x509_certificate(roots.signer.sign(key, CHAT, 600.0).chain_pem.encode())  # type: ignore[arg-type]


def test_a_change_of_roots_goes_through_its_phases(tmp_path: Path, clock: Any) -> None:
    roots = opened(tmp_path / "ca", clock)
    old = roots.signer.root
    assert roots.phase is Phase.STEADY
    roots.begin(60.0)
    new = next(item for item in roots.trusted if item != old)
    assert new.subject != old.subject
    for phase, signer, trusted in (
        (Phase.ANNOUNCE, old, {old, new}),
        (Phase.ISSUE, new, {old, new}),
        (Phase.RETIRE, new, {new}),
        (Phase.STEADY, new, {new}),
    ):
        for again in (roots, opened(tmp_path / "ca", clock)):
            assert again.phase is phase
            assert set(again.trusted) == trusted
            signed_by(again).verify_directly_issued_by(signer)
            assert set(x509.load_pem_x509_certificates(again.bundle_pem.encode())) == trusted
        if phase is not Phase.STEADY:
            clock.seconds += 5
            roots.advance()
    assert sorted(item.name for item in (tmp_path / "ca").iterdir()) == ["ca-cert.pem", "ca-key.pem", "root-cert.pem"]
    modes = {stat.S_IMODE(item.stat().st_mode) for item in (tmp_path / "ca").iterdir()}
    assert modes == {0o600}


def test_a_crash_at_any_write_loses_nothing(tmp_path: Path, clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write of the whole change is the last one once; what is opened then is consistent and can go on."""
    real = roots_module.write_private
    for last in range(40):
        directory = tmp_path / str(last)
        old = opened(directory, clock).signer.root
        left = last

        def limited(path: Path, data: bytes) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            real(path, data)

        monkeypatch.setattr(roots_module, "write_private", limited)
        try:
            roots = opened(directory, clock)
            roots.begin(0.0)
            for _ in range(3):
                roots.advance()
        except KeyboardInterrupt:
            crashed = True
        else:
            crashed = False
        monkeypatch.setattr(roots_module, "write_private", real)
        again = opened(directory, clock)
        issuer = again.signer.root
        signed_by(again).verify_directly_issued_by(issuer)
        assert issuer in again.trusted
        if again.phase is Phase.STEADY and crashed:
            assert again.trusted == (old,)
            again.begin(0.0)
        while again.phase is not Phase.STEADY:
            again.advance()
        assert old not in opened(directory, clock).trusted
        if not crashed:
            assert last >= 6
            return
    pytest.fail("the change never ended")


def test_other_roots_of_the_bundle_stay(tmp_path: Path, clock: Any) -> None:
    friend = opened(tmp_path / "friend", clock).signer.root
    roots = opened(tmp_path / "ca", clock)
    bundle = tmp_path / "ca" / "root-cert.pem"
    bundle.write_text(bundle.read_text() + opened(tmp_path / "friend", clock).bundle_pem)
    roots = opened(tmp_path / "ca", clock)
    roots.begin(0.0)
    while roots.phase is not Phase.STEADY:
        roots.advance()
    assert friend in roots.trusted
    assert len(roots.trusted) == 2


def test_only_one_change_at_a_time_and_only_of_an_own_root(tmp_path: Path, clock: Any) -> None:
    roots = opened(tmp_path / "ca", clock)
    plugged = opened(tmp_path / "ca", clock, create=False)
    with pytest.raises(RotationRefused, match=r"was plugged in: bring the new root into its root-cert\.pem"):
        plugged.begin(0.0)
    roots.begin(0.0)
    with pytest.raises(RotationRefused, match=r"under way \(phase announce\)"):
        roots.begin(0.0)


def test_an_unreadable_state_is_named(tmp_path: Path, clock: Any) -> None:
    opened(tmp_path / "ca", clock)
    (tmp_path / "ca" / "rotation.json").write_text("{")
    with pytest.raises(AuthorityError, match=r"rotation\.json: cannot be read\. Remove it"):
        opened(tmp_path / "ca", clock)


def test_lists_of_both_authorities_are_in_force_and_the_old_one_stays(tmp_path: Path, clock: Any) -> None:
    roots = opened(tmp_path / "ca", clock)
    trust = Trust(roots, Ledger.open(tmp_path / "ledger.sqlite"), clock, ListRules())
    trust.revoke_identity(CHAT.uri, Reason.UNSPECIFIED)
    old = trust.state.issuer
    assert trust.state.crl_pem.count("BEGIN X509 CRL") == 1
    assert trust.begin_rotation(0.0).crl_pem.count("BEGIN X509 CRL") == 2
    assert trust.state.issuer == old
    trust.advance()
    assert trust.state.issuer != old
    trust.advance()
    assert trust.state.crl_pem.count("BEGIN X509 CRL") == 2, "the old authority's list stays while it is valid"
    assert listed(trust.state.crl_pem) == set()
    assert not (tmp_path / "ca" / "next").exists() or os.listdir(tmp_path / "ca" / "next")
