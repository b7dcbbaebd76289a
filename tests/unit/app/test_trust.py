"""The keeper of the mesh's trust: what people ask, what follows from a revocation, what a change of roots waits for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.unit.app.documents import WORKLOAD, of_type, revision_of
from tests.unit.app.test_hosts import FIRST, SECOND, book, replica

from headrace.app.control_plane.agents import AgentService
from headrace.app.control_plane.answers import Refused
from headrace.app.control_plane.assignments import PlannedReplica, plan
from headrace.app.control_plane.trust import TrustKeeper
from headrace.app.settings import MeshSettings
from headrace.floor.cell import LatestValue
from headrace.identity.issuer import Issuer
from headrace.identity.keys import PrivateKey
from headrace.identity.ledger import Ledger
from headrace.identity.roots import Phase, Roots
from headrace.identity.trust import ListRules, Trust
from headrace.model.identity import Identity
from headrace.model.mesh import MeshConfig
from headrace.model.workload import Workload
from headrace.wire import agent_v1_pb2 as wire

LIFETIME = 3600.0


@dataclass
class SetClock:
    seconds: float = 1_800_000_000.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


class Aborted(Exception):
    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code


class Context:
    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise Aborted(code, details)


@dataclass
class Rig:
    """A control plane's trust with one host that runs the two replicas of WORKLOAD."""

    directory: Path
    clock: SetClock = field(default_factory=SetClock)
    changes: int = 0
    reports: dict[str, wire.ReplicaReport] = field(default_factory=dict)
    sequence: int = 0

    def __post_init__(self) -> None:
        self.hosts = book()
        self.planned: LatestValue[tuple[PlannedReplica, ...]] = LatestValue(
            plan(of_type(revision_of(WORKLOAD), Workload), [], MeshConfig())
        )
        self.ledger = Ledger.open(self.directory / "ledger.sqlite")
        roots = Roots.open(self.directory / "ca", "cluster.local", self.clock)
        self.trust = Trust(roots, self.ledger, self.clock, ListRules())
        self.keeper = TrustKeeper(self.trust, self.hosts, self.planned, self.clock, self._changed)
        self.service = AgentService(self.hosts, self.planned, object(), MeshSettings(host="a"))  # type: ignore[arg-type]
        self.service.issuer = Issuer(self.service, self.trust, self.ledger, self.clock, LIFETIME)
        self.service.trust = self.keeper.states

    def _changed(self) -> None:
        self.changes += 1

    def sign(self, name: str, host: str = "a", identity: Identity | None = None) -> wire.SignCertificateResponse:
        """Ask as an agent does."""
        own = self.hosts.known(name)
        wanted = identity or (own.identity if own else Identity("cluster.local", "default", "chat"))
        csr = PrivateKey.generate().csr(wanted)
        request = wire.SignCertificateRequest(host=host, replica_id=name, csr_der=csr)
        return asyncio.run(self.service.SignCertificate(request, Context()))  # type: ignore[arg-type]

    def renew(self, *names: str) -> None:
        """The replicas get certificates, and their host reports them with the newest trust."""
        for name in names:
            report = replica(name)
            report.certificate_serial = self.sign(name).serial
            self.reports[name] = report
        self.report()

    def report(self, version: str | None = None) -> None:
        self.sequence += 1
        known = self.keeper.states.value.version if version is None else version
        self.hosts.report(
            wire.HostReport(host="a", sequence=self.sequence, replicas=list(self.reports.values()), trust_version=known)
        )

    def state(self, name: str) -> str:
        return next(row["state"] for row in self.keeper.listing()["certificates"] if row["replica"] == name)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    made = Rig(tmp_path)
    made.renew(FIRST, SECOND)
    return made


def test_an_agent_gets_certificates_for_its_own_replicas_only(rig: Rig) -> None:
    assert rig.sign(FIRST).serial
    stranger = Identity("cluster.local", "default", "bank")
    for name, host, identity, code in (
        (FIRST, "b", None, grpc.StatusCode.PERMISSION_DENIED),
        ("default/bank-0", "a", None, grpc.StatusCode.PERMISSION_DENIED),
        ("", "a", None, grpc.StatusCode.PERMISSION_DENIED),
        (FIRST, "", None, grpc.StatusCode.PERMISSION_DENIED),
        (FIRST, "a", stranger, grpc.StatusCode.INVALID_ARGUMENT),
        (FIRST, "a", Identity("other.example", "default", "chat"), grpc.StatusCode.INVALID_ARGUMENT),
    ):
        before = len(rig.ledger.entries())
        with pytest.raises(Aborted) as refusal:
            rig.sign(name, host, identity)
        assert refusal.value.code is code
        assert len(rig.ledger.entries()) == before


def test_a_revoked_workload_leaves_the_endpoints_and_gets_nothing(rig: Rig) -> None:
    assert set(rig.hosts.observed()) == {FIRST, SECOND}
    done = rig.keeper.revoke({"workload": "default/chat-v1", "reason": "key-compromise"})
    assert done["replicas"] == [FIRST, SECOND]
    assert len(done["revoked"]) == 2
    assert rig.hosts.observed() == {}
    assert set(rig.hosts.proxies()) == {FIRST, SECOND}, "its proxies are served all the same"
    assert rig.changes == 1
    assert rig.state(FIRST) == "revoked"
    assert rig.keeper.problem_of(FIRST, rig.reports[FIRST].certificate_serial) == "identity revoked (key-compromise)"
    with pytest.raises(Aborted, match="is revoked") as refusal:
        rig.sign(FIRST)
    assert refusal.value.code is grpc.StatusCode.PERMISSION_DENIED
    rig.keeper.revoke({"workload": "default/chat-v1", "lift": "1"})
    assert rig.hosts.observed() == {}, "until it has a certificate that is not revoked"
    rig.renew(FIRST)
    assert set(rig.hosts.observed()) == {FIRST}
    assert rig.keeper.problem_of(FIRST, rig.reports[FIRST].certificate_serial) is None


def test_a_revoked_serial_takes_only_its_replica_out(rig: Rig) -> None:
    serial = rig.reports[FIRST].certificate_serial
    assert rig.keeper.revoke({"serial": serial})["revoked"] == [serial]
    assert set(rig.hosts.observed()) == {SECOND}
    rig.renew(FIRST)
    assert set(rig.hosts.observed()) == {FIRST, SECOND}


def test_what_makes_no_sense_is_refused_in_one_line(rig: Rig) -> None:
    for wanted, words in (
        ({}, "one of --workload, --identity and --serial"),
        ({"serial": "a", "identity": "b"}, "one of --workload"),
        ({"serial": "zz"}, "no certificate with serial 'zz'"),
        ({"workload": "default/none"}, "there are: default/chat-v1"),
        ({"workload": "default/chat-v1", "reason": "dislike"}, "a reason is one of: unspecified, key-compromise"),
        ({"serial": "a", "lift": "1"}, "a serial stays revoked"),
    ):
        with pytest.raises(Refused, match=words):
            rig.keeper.revoke(wanted)
    assert rig.changes == 0


def test_agents_are_told_at_once_and_after_every_change(rig: Rig) -> None:
    async def told() -> list[wire.TrustState]:
        stream = rig.service.Trust(wire.TrustRequest(host="a"), None)
        first = await anext(stream)
        rig.keeper.revoke({"workload": "default/chat-v1"})
        return [first, await anext(stream)]

    before, after = asyncio.run(told())
    assert before.trust_bundle_pem == after.trust_bundle_pem == rig.trust.bundle_pem
    assert (before.revocation_lists_pem, list(before.revoked_identities)) == ("", [])
    assert list(after.revoked_identities) == ["spiffe://cluster.local/ns/default/sa/model"]
    assert len(after.revoked_certificates) == 2
    assert "BEGIN X509 CRL" in after.revocation_lists_pem
    assert before.version != after.version


def test_a_change_of_roots_waits_for_the_proxies_and_for_every_renewal(rig: Rig) -> None:
    def waits(words: str) -> None:
        rig.keeper.turn()
        assert words in "; ".join(rig.keeper.authority()["waiting_for"])

    rig.keeper.rotate(overlap=30.0)
    assert rig.keeper.authority()["rotation"]["phase"] == "announce"
    waits("host a: its proxies' acknowledgement")
    rig.hosts.lost("a")
    waits("host a: not connected")
    rig.report()
    rig.keeper.turn()
    rig.keeper._publish()
    assert rig.trust.roots.phase is Phase.ISSUE
    rig.report()
    waits("30 s of overlap")
    waits(f"{SECOND}: a new certificate")
    rig.clock.seconds += 31
    rig.renew(FIRST)
    waits(f"{SECOND}: a new certificate")
    rig.renew(SECOND)
    rig.keeper.turn()
    rig.keeper._publish()
    assert rig.trust.roots.phase is Phase.RETIRE
    rig.keeper.turn()
    assert rig.trust.roots.phase is Phase.RETIRE, "not before the proxies have it"
    rig.report()
    rig.keeper.turn()
    assert rig.trust.roots.phase is Phase.STEADY
    assert rig.keeper.authority()["waiting_for"] == []


def test_a_revoked_replica_does_not_hold_up_a_change_of_roots(rig: Rig) -> None:
    rig.keeper.revoke({"workload": "default/chat-v1"})
    rig.report()
    rig.keeper.rotate(overlap=0.0)
    for _ in range(3):
        rig.report()
        rig.keeper.turn()
        rig.keeper._publish()
    assert rig.trust.roots.phase is Phase.STEADY


def test_certificates_that_are_not_renewed_are_an_alert(rig: Rig) -> None:
    assert rig.keeper.problems() == []
    rig.clock.seconds += LIFETIME * 0.8
    rig.renew(SECOND)
    assert rig.keeper.problems() == [f"certificates were not renewed in time: {FIRST}"]
    serial = rig.reports[FIRST].certificate_serial
    assert rig.keeper.problem_of(FIRST, serial) == "certificate not renewed in time"
    assert rig.keeper.problem_of(SECOND, rig.reports[SECOND].certificate_serial) is None


def test_a_host_without_the_module_is_named_once_somebody_is_revoked(rig: Rig) -> None:
    rig.hosts.register(wire.RegisterRequest(host="a", version="0.1.0", envoy_version="1.40.0", module=False))
    assert rig.keeper.problems() == []
    rig.keeper.revoke({"workload": "default/chat-v1"})
    assert "host a has no native module" in rig.keeper.problems()[0]


def test_everything_is_listed_where_asked(rig: Rig) -> None:
    rig.renew(FIRST)
    rows: list[dict[str, Any]] = rig.keeper.listing()["certificates"]
    assert [row["replica"] for row in rows] == [FIRST, SECOND]
    assert len(rig.keeper.listing(everything=True)["certificates"]) == 3
    assert rig.keeper.inspect(rows[0]["serial"].upper())["replica"] == FIRST
    rig.clock.seconds += LIFETIME + 1
    assert rig.keeper.listing()["certificates"] == []
    assert {row["state"] for row in rig.keeper.listing(everything=True)["certificates"]} == {"expired"}
