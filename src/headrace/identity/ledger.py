"""The record of every certificate issued: an SQLite file that the control plane writes and commands read.

It holds no key and no certificate, only what says who got which one, what was revoked, and the revocation lists that
were signed. Written by `identity.issuer` and `identity.trust`, read by the control plane's API (`headrace ca`).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import quote

from headrace.identity import ledger_schema
from headrace.identity.attest import quoted

_BUSY_SECONDS = 5.0
_PRUNE_EVERY = 100
_COLUMNS = "serial, identity, replica, host, not_before, not_after, issued_at, spki_sha256, status, issuer, fingerprint"
_HOLES = ",".join("?" * len(_COLUMNS.split(",")))


class LedgerError(Exception):
    """The ledger cannot be used or written; the message names the file, what is wrong, and what to do."""


class Status(StrEnum):
    """What became of a certificate. Expiry is not a status: compare `not_after` with the time."""

    ISSUED = "issued"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Entry:
    """One certificate. Times in seconds since the epoch; `serial` lower-case hex; `spki_sha256` hex hash of the DER
    SubjectPublicKeyInfo; `identity` the SPIFFE URI; `replica` and `host` who asked; `issuer` the key identifier (hex)
    of the CA that signed; `fingerprint` hex SHA-256 of the DER certificate. The last two are empty in entries of an
    older ledger."""

    serial: str
    identity: str
    replica: str
    host: str
    not_before: float
    not_after: float
    issued_at: float
    spki_sha256: str
    status: Status = Status.ISSUED
    issuer: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Revoked:
    """A revoked certificate that has not expired: its entry, when it was revoked, and why."""

    entry: Entry
    revoked_at: float
    reason: str


@dataclass(frozen=True, slots=True)
class Block:
    """An identity that gets no certificates until it is lifted."""

    identity: str
    since: float
    reason: str


@dataclass(frozen=True, slots=True)
class SignedList:
    """The newest revocation list that one CA (`issuer`: its key identifier) has signed. PEM; times in seconds since
    the epoch."""

    issuer: str
    number: int
    pem: str
    this_update: float
    next_update: float


@dataclass(frozen=True, slots=True)
class Retention:
    """What of the expired entries is kept: those younger than `age` seconds past their end, at most `entries` of
    them. Entries of certificates that are still valid are never removed."""

    age: float = 7 * 86400.0
    entries: int = 100_000


class Ledger:
    """The ledger of one mesh. One writer; any number of readers, in this and other processes (write-ahead log)."""

    def __init__(self, path: Path, database: sqlite3.Connection, retention: Retention) -> None:
        self._path = path
        self._database = database
        self._retention = retention
        self._lock = threading.Lock()
        self._until_prune = 0

    @classmethod
    def open(cls, path: Path, retention: Retention | None = None) -> Ledger:
        """The ledger at `path`, made (mode 0600) where there is none; LedgerError where it cannot be used."""
        try:
            # SQLite gives its -wal and -shm files the mode of the database.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            path.chmod(0o600)
        except OSError as error:
            raise LedgerError(f"{path}: cannot be opened: {error.strerror}. Give this user the right to it.") from None
        with _explained(path):
            database = _connect(f"file:{quote(str(path))}?mode=rw")
            try:
                database.execute("PRAGMA journal_mode=WAL")
                # NORMAL: a killed process loses nothing. A power cut may lose the last entries, but with them the
                # keys, which exist in memory only.
                database.execute("PRAGMA synchronous=NORMAL")
                ledger_schema.prepare(path, database)
            except BaseException:
                database.close()
                raise
        return cls(path, database, retention or Retention())

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """The ledger at `path` for reading only, beside its writer; LedgerError where there is none."""
        with _explained(path):
            database = _connect(f"file:{quote(str(path))}?mode=ro")
            try:
                ledger_schema.check(path, database)
            except BaseException:
                database.close()
                raise
        return cls(path, database, Retention())

    def record(self, entry: Entry) -> None:
        """Write one entry durably, and now and then remove what retention no longer keeps; LedgerError where it
        fails (also for a serial that is already there)."""
        row = tuple(str(item) if isinstance(item, Status) else item for item in astuple(entry))
        with self._lock, _explained(self._path), self._database:
            self._database.execute(f"INSERT INTO issued ({_COLUMNS}) VALUES ({_HOLES})", row)  # noqa: S608
            self._until_prune -= 1
            if self._until_prune < 0:
                self._prune(entry.issued_at)
                self._until_prune = _PRUNE_EVERY

    def inspect(self, serial: str) -> Entry | None:
        """The entry of one serial (hex, any case, colons allowed), None where there is none."""
        found = self._query("WHERE serial = ? LIMIT ?", (serial.replace(":", "").lower().lstrip("0"),), 1)
        return found[0] if found else None

    def entries(self, identity: str = "", replica: str = "", limit: int = 1000) -> list[Entry]:
        """Entries, newest first, of one identity (SPIFFE URI) and one replica where given; at most `limit`."""
        where = "WHERE (? = '' OR identity = ?) AND (? = '' OR replica = ?) ORDER BY issued_at DESC, serial LIMIT ?"
        return self._query(where, (identity, identity, replica, replica), limit)

    def expiring(self, now: float, within: float, limit: int = 1000) -> list[Entry]:
        """Entries that are valid at `now` and end within `within` seconds, soonest first; at most `limit`.

        A replica that was renewed has a newer entry: see `current` for what is in use.
        """
        where = "WHERE not_after > ? AND not_after <= ? ORDER BY not_after, serial LIMIT ?"
        return self._query(where, (now, now + within), limit)

    def current(self, now: float, limit: int = 1000) -> list[Entry]:
        """The newest entry of each replica, where it is valid at `now`; by replica; at most `limit`."""
        where = (
            "AS entry WHERE not_after > ? AND NOT EXISTS (SELECT 1 FROM issued AS newer WHERE "
            "newer.replica = entry.replica AND (newer.issued_at, newer.serial) > (entry.issued_at, entry.serial)) "
            "ORDER BY replica LIMIT ?"
        )
        return self._query(where, (now,), limit)

    # What was revoked

    def revoke(self, serials: Iterable[str], now: float, reason: str) -> None:
        """Note certificates (by serial, as recorded) as revoked, durably also against a power cut."""
        with self._durable() as database:
            for serial in serials:
                database.execute("INSERT OR IGNORE INTO revoked VALUES (?,?,?)", (serial, now, reason))
                database.execute("UPDATE issued SET status = ? WHERE serial = ?", (Status.REVOKED.value, serial))

    def block(self, identity: str, now: float, reason: str) -> None:
        """Let an identity get no more certificates, and revoke those it has, in one transaction."""
        with self._durable() as database:
            database.execute("INSERT OR IGNORE INTO blocked VALUES (?,?,?)", (identity, now, reason))
            valid = "FROM issued WHERE identity = ? AND not_after > ?"
            database.execute(
                f"INSERT OR IGNORE INTO revoked SELECT serial, ?, ? {valid}",
                (now, reason, identity, now),
            )
            database.execute(
                f"UPDATE issued SET status = ? WHERE serial IN (SELECT serial {valid})",  # noqa: S608
                (Status.REVOKED.value, identity, now),
            )

    def lift(self, identity: str) -> bool:
        """Let an identity have certificates again (those that were revoked stay so); whether it was blocked."""
        with self._durable() as database:
            return database.execute("DELETE FROM blocked WHERE identity = ?", (identity,)).rowcount > 0

    def blocked(self) -> list[Block]:
        """The identities that get no certificates, by name."""
        with self._lock, _explained(self._path):
            rows = self._database.execute("SELECT identity, since, reason FROM blocked ORDER BY identity")
            return [Block(*row) for row in rows]

    def block_of(self, identity: str) -> Block | None:
        """Why an identity gets no certificates; None where it may have them."""
        with self._lock, _explained(self._path):
            sql = "SELECT identity, since, reason FROM blocked WHERE identity = ?"
            row = self._database.execute(sql, (identity,)).fetchone()
            return Block(*row) if row else None

    def key_revoked(self, spki_sha256: str) -> bool:
        """Whether a certificate of this public key was revoked."""
        with self._lock, _explained(self._path):
            sql = "SELECT 1 FROM issued WHERE status = ? AND spki_sha256 = ? LIMIT 1"
            return self._database.execute(sql, (Status.REVOKED.value, spki_sha256)).fetchone() is not None

    def revoked(self, now: float) -> list[Revoked]:
        """The revoked certificates that have not expired at `now`, by serial."""
        columns = ", ".join(f"issued.{name.strip()}" for name in _COLUMNS.split(","))
        sql = (
            f"SELECT {columns}, revoked_at, reason FROM revoked JOIN issued USING (serial) "  # noqa: S608
            "WHERE not_after > ? ORDER BY serial"
        )
        with self._lock, _explained(self._path):
            return [Revoked(_entry(row[:-2]), *row[-2:]) for row in self._database.execute(sql, (now,))]

    def issuers(self, now: float) -> dict[str, float]:
        """The CAs (key identifiers) that have signed certificates valid at `now`, each with the last one's end."""
        sql = "SELECT issuer, max(not_after) FROM issued WHERE not_after > ? GROUP BY issuer ORDER BY issuer"
        with self._lock, _explained(self._path):
            return dict(self._database.execute(sql, (now,)).fetchall())

    def adopt(self, issuer: str) -> None:
        """Say of entries without an issuer (of an older ledger) that this CA signed them."""
        with self._lock, _explained(self._path), self._database:
            self._database.execute("UPDATE issued SET issuer = ? WHERE issuer = ''", (issuer,))

    def keep_list(self, signed: SignedList) -> None:
        """Keep a CA's newest revocation list: it stays in force when the CA's key is gone."""
        with self._durable() as database:
            row = (signed.issuer, signed.number, signed.pem, signed.this_update, signed.next_update)
            database.execute("INSERT OR REPLACE INTO crl VALUES (?,?,?,?,?)", row)

    def lists(self) -> dict[str, SignedList]:
        """The newest revocation list of each CA, by key identifier."""
        with self._lock, _explained(self._path):
            rows = self._database.execute("SELECT issuer, number, pem, this_update, next_update FROM crl").fetchall()
            return {row[0]: SignedList(*row) for row in sorted(rows)}

    @contextlib.contextmanager
    def _durable(self) -> Iterator[sqlite3.Connection]:
        """A transaction that a power cut does not undo."""
        with self._lock, _explained(self._path):
            self._database.execute("PRAGMA synchronous=FULL")
            try:
                with self._database:
                    yield self._database
            finally:
                self._database.execute("PRAGMA synchronous=NORMAL")

    def close(self) -> None:
        """Close the file; the ledger is of no use after."""
        with self._lock:
            self._database.close()

    def _query(self, where: str, values: tuple[str | float, ...], limit: int) -> list[Entry]:
        with self._lock, _explained(self._path):
            rows = self._database.execute(f"SELECT {_COLUMNS} FROM issued {where}", (*values, limit))  # noqa: S608
            return [_entry(row) for row in rows]

    def _prune(self, now: float) -> None:
        self._database.execute("DELETE FROM revoked WHERE serial NOT IN (SELECT serial FROM issued)")
        self._database.execute("DELETE FROM issued WHERE not_after < ?", (now - self._retention.age,))
        # Of the expired entries, newest end first, the one after the last kept (if any) bounds what goes.
        bound = self._database.execute(
            "SELECT not_after FROM issued WHERE not_after < ? ORDER BY not_after DESC LIMIT 1 OFFSET ?",
            (now, self._retention.entries),
        ).fetchone()
        if bound:
            self._database.execute("DELETE FROM issued WHERE not_after <= ?", bound)


def _entry(row: tuple[Any, ...]) -> Entry:
    return replace(Entry(*row), status=Status(row[8]))


def _connect(uri: str) -> sqlite3.Connection:
    # The lock of `Ledger` makes use from several threads safe.
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, check_same_thread=False)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """SQLite's errors as LedgerErrors."""
    try:
        yield
    except ledger_schema.SchemaError as error:
        raise LedgerError(str(error)) from None
    except sqlite3.Error as error:
        raise LedgerError(
            f"{path}: {quoted(str(error))}. If the file is damaged move it away: certificates stay valid, only their "
            "record starts anew."
        ) from error
