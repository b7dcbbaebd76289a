"""The authority and its successor: which one signs, which roots are trusted, and where a change of roots stands.

Opened by `identity.trust`. A change goes through `Phase`s; each is written to `rotation.json` before it counts, and
every step can be done again, so a process killed anywhere goes on where it was.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from cryptography import x509

from headrace.floor.clock import Clock
from headrace.floor.files import write_private
from headrace.identity.authority import Authority, SigningRules, pem
from headrace.identity.material import (
    ROOTS,
    SIGNING_CERTIFICATE,
    SIGNING_KEY,
    AuthorityError,
    create_root,
)

_STATE = "rotation.json"
_NEXT = "next"


class Phase(StrEnum):
    """STEADY: one authority. ANNOUNCE: both roots are in every bundle, the old one signs. ISSUE: the new one signs, and
    every replica renews. RETIRE: the old root is out of the bundle, which is on its way to the proxies."""

    STEADY = "steady"
    ANNOUNCE = "announce"
    ISSUE = "issue"
    RETIRE = "retire"


_AFTER = {Phase.ANNOUNCE: Phase.ISSUE, Phase.ISSUE: Phase.RETIRE, Phase.RETIRE: Phase.STEADY}


@dataclass(frozen=True, slots=True)
class Progress:
    """A change of roots: its phase, when it began and when the phase did (seconds since the epoch), and for how long
    both roots stay after the new one began to sign (at least, in seconds)."""

    phase: Phase
    began: float
    phase_began: float
    overlap: float


class RotationRefused(Exception):
    """A change of roots cannot begin; the message says why and what to do."""


class Roots:
    """The authorities of one mesh. Not for several threads."""

    def __init__(self, directory: Path, trust_domain: str, clock: Clock, rules: SigningRules | None, own: bool) -> None:
        self._directory = directory
        self._trust_domain = trust_domain
        self._clock = clock
        self._rules = rules
        self._own = own
        self.progress: Progress | None = _load(directory) if own else None
        if self.progress is not None and self.progress.phase is Phase.RETIRE:
            self._take_over()
        self._current = self._open(directory, create=own)
        self._next = None
        if self.progress is not None and self.progress.phase is not Phase.RETIRE:
            self._next = self._open(directory / _NEXT, create=False)

    @classmethod
    def open(
        cls, directory: Path, trust_domain: str, clock: Clock, rules: SigningRules | None = None, *, create: bool = True
    ) -> Roots:
        """Those of `directory` (`create`: the mesh's own, with a root made where there is none; else plugged in by a
        user, and never written). AuthorityError as `Authority.open`."""
        return cls(directory, trust_domain, clock, rules, create)

    @property
    def phase(self) -> Phase:
        return self.progress.phase if self.progress is not None else Phase.STEADY

    @property
    def signer(self) -> Authority:
        """The authority that signs now."""
        return self._next if self._next is not None and self.phase is Phase.ISSUE else self._current

    @property
    def authorities(self) -> tuple[Authority, ...]:
        """Those whose keys are here: the one that signs first."""
        if self._next is None:
            return (self._current,)
        return (self._next, self._current) if self.phase is Phase.ISSUE else (self._current, self._next)

    @property
    def trusted(self) -> tuple[x509.Certificate, ...]:
        """The roots of the bundle, each once."""
        found = {item: None for authority in self.authorities for item in authority.roots}
        return tuple(found)

    @property
    def bundle_pem(self) -> str:
        """The roots that proxies trust, PEM."""
        return "".join(pem(item) for item in self.trusted)

    def begin(self, overlap: float) -> None:
        """Make a new root and begin to announce it. RotationRefused where a change is under way already, or where the
        authority is not a root that this mesh made; AuthorityError where it cannot be written."""
        if self.progress is not None:
            raise RotationRefused(
                f"a change of roots is under way (phase {self.phase.value}): `headrace ca list` shows how far it is"
            )
        if not self._own or self._current.signing != self._current.root:
            raise RotationRefused(
                f"the authority in {self._directory} was plugged in: bring the new root into its {ROOTS} beside the "
                "old one, then the new signing certificate, then take the old root away (docs/reference/identity.md)"
            )
        now = self._clock.now()
        next_directory = self._directory / _NEXT
        shutil.rmtree(next_directory, ignore_errors=True)  # left by a change that never began: nobody has seen it
        name = datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("root of %Y-%m-%d %H:%M:%S")
        created = datetime.datetime.fromtimestamp(int(now - 60.0), datetime.UTC)
        create_root(next_directory, self._trust_domain, created, name)
        successor = self._open(next_directory, create=False)
        self._keep(Progress(Phase.ANNOUNCE, now, now, overlap))
        self._next = successor

    def advance(self) -> Phase:
        """Go on to the next phase; the phase that it is."""
        assert self.progress is not None, "no change of roots is under way"
        phase = _AFTER[self.progress.phase]
        if phase is Phase.STEADY:
            (self._directory / _STATE).unlink(missing_ok=True)
            shutil.rmtree(self._directory / _NEXT, ignore_errors=True)
            self.progress = None
            return phase
        self._keep(replace(self.progress, phase=phase, phase_began=self._clock.now()))
        if phase is Phase.RETIRE:
            self._take_over()
            self._current, self._next = self._open(self._directory, create=False), None
        return phase

    def _take_over(self) -> None:
        """The successor's files in place of the authority's. Done again after a crash; the bundle keeps roots that
        neither of the two made."""
        source = self._directory / _NEXT
        root = (source / SIGNING_CERTIFICATE).read_bytes()
        try:
            old = x509.load_pem_x509_certificate((self._directory / SIGNING_CERTIFICATE).read_bytes())
            roots = x509.load_pem_x509_certificates((self._directory / ROOTS).read_bytes())
            new = x509.load_pem_x509_certificate(root)
            others = [item for item in roots if item not in (old, new)]
            write_private(self._directory / ROOTS, "".join(pem(item) for item in (new, *others)).encode())
            for name in (SIGNING_KEY, SIGNING_CERTIFICATE):
                write_private(self._directory / name, (source / name).read_bytes())
        except OSError as error:
            raise AuthorityError(
                self._directory, f"the new root cannot be put in place: {error.strerror}", "Make room, then try again."
            ) from None

    def _open(self, directory: Path, *, create: bool) -> Authority:
        return Authority.open(directory, self._trust_domain, self._clock, self._rules, create=create)

    def _keep(self, progress: Progress) -> None:
        state = {
            "phase": progress.phase.value,
            "began": progress.began,
            "phase_began": progress.phase_began,
            "overlap": progress.overlap,
        }
        try:
            write_private(self._directory / _STATE, json.dumps(state).encode())
        except OSError as error:
            raise AuthorityError(
                self._directory / _STATE, f"cannot be written: {error.strerror}", "Make room, then try again."
            ) from None
        self.progress = progress


def _load(directory: Path) -> Progress | None:
    path = directory / _STATE
    with contextlib.suppress(FileNotFoundError):
        try:
            found = json.loads(path.read_bytes())
            times = [float(found[name]) for name in ("began", "phase_began", "overlap")]
            return Progress(Phase(found["phase"]), *times)
        except (ValueError, KeyError, TypeError, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise AuthorityError(
                path, "cannot be read", f"Remove it (and {directory / _NEXT}) to end the change of roots it stands for."
            ) from None
    return None
