"""Certificates as the running mesh and its people see them: revocation, change of roots, and what is wrong.

Made by the control plane's process, which runs `run`; called by the management API (`headrace ca`). What it decides is
in `identity.trust`; here stand the clock, the hosts' answers, and the words for people.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from headrace.app.control_plane.answers import Refused
from headrace.app.control_plane.assignments import PlannedReplica
from headrace.app.control_plane.hosts import HostBook
from headrace.app.control_plane.trust_words import authority_row, certificate_row, date, list_row, revoked_row
from headrace.floor.cell import LatestValue
from headrace.floor.clock import Clock
from headrace.identity.authority import AuthorityError
from headrace.identity.crl import Reason
from headrace.identity.ledger import Entry, LedgerError, Status
from headrace.identity.roots import Phase, RotationRefused
from headrace.identity.trust import RevocationRefused, Trust, TrustState

_log = structlog.get_logger()
_TURN_SECONDS = 1.0
_ROTATING_SECONDS = 0.1
_REFRESH_SECONDS = 60.0
_LATE = 0.25
"""A replica whose certificate has less than this part of its life left was not renewed in time: an alert."""


@dataclass(frozen=True, slots=True)
class Expiries:
    """What of the mesh's trust expires when (seconds since the epoch), and how much of it is revoked or wrong.

    `root` and `chain`: the first of the own roots, and of the certificates that sign; `certificates` by replica, of
    those in use; `lists` by issuer."""

    root: float
    chain: float
    certificates: Mapping[str, float]
    lists: Mapping[str, float]
    revoked: int
    blocked: int
    problems: int


class TrustKeeper:
    """The mesh's trust and its state for the agents. `changed` is called when endpoints may have to leave or return."""

    def __init__(
        self,
        trust: Trust,
        hosts: HostBook,
        planned: LatestValue[tuple[PlannedReplica, ...]],
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        self._trust = trust
        self._hosts = hosts
        self._planned = planned
        self._clock = clock
        self._changed = changed
        self.states: LatestValue[TrustState] = LatestValue(trust.state)
        self._enforce()

    async def run(self) -> None:
        """Keep lists fresh and bring a change of roots forward; until cancelled."""
        refreshed = self._clock.monotonic()
        while True:
            try:
                now = self._clock.monotonic()
                if now - refreshed >= _REFRESH_SECONDS:
                    refreshed = now
                    self._trust.refresh()
                self.turn()
            except Exception as error:  # the mesh goes on with what it has; the next turn tries again
                if self._trust.failures.get("authority") != str(error):
                    _log.exception("trust not renewed")
                self._trust.failures["authority"] = str(error) or type(error).__name__
            else:
                self._trust.failures.pop("authority", None)
            self._publish()
            steady = self._trust.roots.phase is Phase.STEADY
            await asyncio.sleep(_TURN_SECONDS if steady else _ROTATING_SECONDS)

    def turn(self) -> None:
        """Go on to the next phase of a change of roots where nothing keeps it."""
        if self._trust.roots.phase is Phase.STEADY or self._awaited():
            return
        phase = self._trust.advance()
        _log.info("change of roots", phase=phase.value, issuer=self._trust.state.issuer)

    # What commands ask

    def listing(self, everything: bool = False) -> dict[str, Any]:
        """The authority, what is revoked, and the certificates (`everything`: also replaced and expired ones)."""
        now, ledger = self._clock.now(), self._trust.ledger
        in_use = {report.certificate_serial for _, report in self._reports()}
        entries = ledger.entries(limit=10_000) if everything else ledger.current(now, limit=10_000)
        return {
            "authority": self.authority(),
            "certificates": [certificate_row(entry, now, in_use) for entry in entries],
            "revoked": [revoked_row(item) for item in ledger.revoked(now)],
            "blocked": [
                {"identity": item.identity, "since": date(item.since), "reason": item.reason}
                for item in ledger.blocked()
            ],
        }

    def authority(self) -> dict[str, Any]:
        """The roots, who signs, the revocation lists, how far a change of roots is, and what is wrong."""
        now, roots, state = self._clock.now(), self._trust.roots, self.states.value
        lists = self._trust.ledger.lists().values()
        progress, pending = roots.progress, self._unacknowledged()
        return {
            "issuer": state.issuer,
            "version": state.version,
            "authorities": [authority_row(item, roots.signer is item) for item in roots.authorities],
            "trusted_roots": len(roots.trusted),
            "lists_sent": bool(state.crl_pem),
            "lists": [list_row(item) for item in lists if item.next_update > now],
            "acknowledged": not pending,
            "waiting_for": self._awaited() if progress else pending,
            "rotation": {
                "phase": roots.phase.value,
                "began": date(progress.began) if progress else None,
                "phase_began": date(progress.phase_began) if progress else None,
                "overlap_seconds": progress.overlap if progress else None,
            },
            "signing_failures": self._trust.signing_failures,
            "problems": self.problems(),
        }

    @property
    def signing_failures(self) -> int:
        """How often an authority could not sign since the process began."""
        return self._trust.signing_failures

    def expiries(self) -> Expiries:
        """For metrics: times instead of dates."""
        now, ledger, roots = self._clock.now(), self._trust.ledger, self._trust.roots
        entries = {report.id: ledger.inspect(report.certificate_serial) for _, report in self._reports()}
        return Expiries(
            root=min(item.root.not_valid_after_utc.timestamp() for item in roots.authorities),
            chain=roots.signer.not_after,
            certificates={replica: entry.not_after for replica, entry in entries.items() if entry is not None},
            lists={item.issuer: item.next_update for item in ledger.lists().values() if item.next_update > now},
            revoked=len(ledger.revoked(now)),
            blocked=len(ledger.blocked()),
            problems=len(self.problems()),
        )

    def inspect(self, serial: str) -> dict[str, Any]:
        """One certificate, by serial."""
        entry = self._trust.ledger.inspect(serial)
        if entry is None:
            raise Refused(404, f"no certificate with serial {serial[:80]!r}: `headrace ca list --all` shows them")
        in_use = {report.certificate_serial for _, report in self._reports()}
        return certificate_row(entry, self._clock.now(), in_use)

    def revoke(self, wanted: Mapping[str, str]) -> dict[str, Any]:
        """Revoke by `workload` (NAMESPACE/NAME), `identity` or `serial`, with a `reason`; or with `lift` take the block
        off an identity."""
        names = [name for name in ("workload", "identity", "serial") if wanted.get(name)]
        if len(names) != 1:
            raise Refused(400, "say what to revoke: one of --workload, --identity and --serial")
        try:
            reason = Reason(wanted.get("reason") or Reason.KEY_COMPROMISE.value)
        except ValueError:
            raise Refused(400, f"a reason is one of: {', '.join(Reason)}") from None
        try:
            return self._revoke(names[0], wanted[names[0]], reason, bool(wanted.get("lift")))
        except RevocationRefused as refusal:
            raise Refused(409, str(refusal)) from None
        except LedgerError as error:
            raise Refused(503, f"not revoked, the ledger cannot be written: {error}") from None

    def _revoke(self, what: str, name: str, reason: Reason, lift: bool) -> dict[str, Any]:
        if what == "serial":
            if lift:
                raise Refused(400, "a serial stays revoked: `--lift` is for an identity or a workload")
            entry, _ = self._trust.revoke_serial(name, reason)
            self._publish()
            return {"revoked": [entry.serial], "identity": entry.identity, "replicas": [entry.replica]}
        identity = name if what == "identity" else self._identity_of(name)
        before = {item.entry.serial for item in self._trust.ledger.revoked(self._clock.now())}
        if lift:
            self._trust.lift(identity)
        else:
            self._trust.revoke_identity(identity, reason)
        self._publish()
        after = {item.entry.serial for item in self._trust.ledger.revoked(self._clock.now())}
        concerned = sorted(item.id for item in self._planned.value if item.identity.uri == identity)
        return {"revoked": sorted(after - before), "identity": identity, "replicas": concerned, "lifted": lift}

    def _identity_of(self, workload: str) -> str:
        """The identity of a workload, running or recorded."""
        namespace, _, name = workload.partition("/")
        for replica in self._planned.value:
            if (replica.namespace, replica.workload) == (namespace, name):
                return replica.identity.uri
        for entry in self._trust.ledger.entries(limit=10_000):
            if entry.replica.rpartition("-")[0] == workload:
                return entry.identity
        known = sorted({f"{item.namespace}/{item.workload}" for item in self._planned.value})
        raise Refused(404, f"no workload {workload[:200]!r}; there are: {', '.join(known) or 'none'}")

    def rotate(self, overlap: float) -> dict[str, Any]:
        """Begin a change of roots."""
        try:
            self._trust.begin_rotation(overlap)
        except (RotationRefused, AuthorityError) as error:
            raise Refused(409, str(error)) from None
        _log.info("change of roots", phase=self._trust.roots.phase.value)
        self._publish()
        return self.authority()

    # What is wrong

    def problems(self) -> list[str]:
        """Faults of the authority, the lists, and certificates that are not renewed in time, one line each."""
        found = self._trust.problems()
        if self._trust.state.identities or self._trust.state.fingerprints:
            found += [
                f"host {host.name} has no native module: live connections of the revoked end there by age only"
                for host in self._hosts.hosts.values()
                if host.connected and not host.module
            ]
        late = sorted(report.id for _, report in self._reports() if self._late(report.certificate_serial))
        if late:
            found.append(f"certificates were not renewed in time: {', '.join(late[:10])}{' ...' if late[10:] else ''}")
        return found

    def problem_of(self, replica: str, serial: str) -> str | None:
        """What is wrong with one replica's certificate; None where nothing is."""
        planned = self._hosts.known(replica)
        if planned is not None:
            block = self._trust.ledger.block_of(planned.identity.uri)
            if block is not None:
                return f"identity revoked ({block.reason})"
        entry = self._trust.ledger.inspect(serial) if serial else None
        if entry is not None and entry.status is Status.REVOKED:
            return "certificate revoked"
        return "certificate not renewed in time" if self._late(serial) else None

    def _late(self, serial: str) -> bool:
        entry = self._trust.ledger.inspect(serial) if serial else None
        return entry is not None and _part_left(entry, self._clock.now()) < _LATE

    # What follows from a change

    def _publish(self) -> None:
        state = self._trust.state
        if state.version == self.states.value.version:
            return
        self.states.set(state)
        self._enforce()
        self._changed()

    def _enforce(self) -> None:
        """Servers that are revoked take no part in the mesh."""
        serials = {item.entry.serial for item in self._trust.ledger.revoked(self._clock.now())}
        self._hosts.revoked(frozenset(self._trust.state.identities), frozenset(serials))

    def _awaited(self) -> list[str]:
        """What keeps a change of roots in its phase, for people; empty: nothing."""
        progress = self._trust.roots.progress
        if progress is None:
            return []
        if progress.phase is not Phase.ISSUE:
            return self._unacknowledged()
        left = progress.phase_began + progress.overlap - self._clock.now()
        found = [f"{left:.0f} s of overlap"] if left > 0 else []
        return found + self._unacknowledged() + [f"{name}: a new certificate" for name in self._not_renewed()]

    def _unacknowledged(self) -> list[str]:
        """Hosts whose proxies have not all acknowledged the newest trust, and hosts that are gone but may be back."""
        version, now = self.states.value.version, self._clock.now()
        found = [
            f"host {host.name}: its proxies' acknowledgement"
            for host in self._hosts.hosts.values()
            if host.connected and host.trust_version != version
        ]
        connected = {host.name for host in self._hosts.hosts.values() if host.connected}
        away = {entry.host for entry in self._trust.ledger.current(now, limit=100_000)} - connected
        return sorted(found + [f"host {name}: not connected" for name in away])

    def _not_renewed(self) -> list[str]:
        """Replicas whose newest certificate, or the one in use, is of an authority that does not sign any more."""
        issuer, ledger = self._trust.state.issuer, self._trust.ledger
        blocked = set(self._trust.state.identities)
        alive = {report.id for _, report in self._reports()} | {item.id for item in self._planned.value}
        alive |= {f"host/{host.name}" for host in self._hosts.hosts.values() if host.connected}
        found = {
            entry.replica
            for entry in ledger.current(self._clock.now(), limit=100_000)
            if entry.issuer != issuer and entry.replica in alive and entry.identity not in blocked
        }
        for _, report in self._reports():
            entry = ledger.inspect(report.certificate_serial) if report.certificate_serial else None
            if entry is not None and entry.issuer != issuer and entry.identity not in blocked:
                found.add(report.id)
        return sorted(found)

    def _reports(self) -> Iterable[tuple[str, Any]]:
        for host in self._hosts.hosts.values():
            for report in host.replicas.values():
                yield host.name, report


def _part_left(entry: Entry, now: float) -> float:
    """How much of a certificate's life is left: 1 when it was issued, below 0 when it has expired."""
    return (entry.not_after - now) / max(1e-9, entry.not_after - entry.issued_at)
