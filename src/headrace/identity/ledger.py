"""The record of every certificate issued: an SQLite file that the control plane writes and commands read.

It holds no key and no certificate, only what says who got which one. Written by `identity.issuer`, read by the control
plane's API and by `headrace ca`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import quote

from headrace.identity.attest import quoted

SCHEMA = 1
"""Number of the table's layout (`PRAGMA user_version`); another number is refused."""
_BUSY_SECONDS = 5.0
_PRUNE_EVERY = 100
_COLUMNS = "serial, identity, replica, host, not_before, not_after, issued_at, spki_sha256, status"
_TABLE = """
CREATE TABLE issued (
    serial TEXT PRIMARY KEY,
    identity TEXT NOT NULL,
    replica TEXT NOT NULL,
    host TEXT NOT NULL,
    not_before REAL NOT NULL,
    not_after REAL NOT NULL,
    issued_at REAL NOT NULL,
    spki_sha256 TEXT NOT NULL,
    status TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX issued_not_after ON issued (not_after);
CREATE INDEX issued_identity ON issued (identity, issued_at);
CREATE INDEX issued_replica ON issued (replica, issued_at);
"""


class LedgerError(Exception):
    """The ledger cannot be used or written; the message names the file, what is wrong, and what to do."""


class Status(StrEnum):
    """What became of a certificate. Expiry is not a status: compare `not_after` with the time."""

    ISSUED = "issued"


@dataclass(frozen=True, slots=True)
class Entry:
    """One certificate. Times in seconds since the epoch; `serial` lower-case hex; `spki_sha256` hex hash of the DER
    SubjectPublicKeyInfo; `identity` the SPIFFE URI; `replica` and `host` who asked."""

    serial: str
    identity: str
    replica: str
    host: str
    not_before: float
    not_after: float
    issued_at: float
    spki_sha256: str
    status: Status = Status.ISSUED


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
                _prepare(path, database)
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
                _check_schema(path, database)
            except BaseException:
                database.close()
                raise
        return cls(path, database, Retention())

    def record(self, entry: Entry) -> None:
        """Write one entry durably, and now and then remove what retention no longer keeps; LedgerError where it
        fails (also for a serial that is already there)."""
        row = tuple(str(item) if isinstance(item, Status) else item for item in astuple(entry))
        with self._lock, _explained(self._path), self._database:
            self._database.execute(f"INSERT INTO issued ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?)", row)  # noqa: S608
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

    def close(self) -> None:
        """Close the file; the ledger is of no use after."""
        with self._lock:
            self._database.close()

    def _query(self, where: str, values: tuple[str | float, ...], limit: int) -> list[Entry]:
        with self._lock, _explained(self._path):
            rows = self._database.execute(f"SELECT {_COLUMNS} FROM issued {where}", (*values, limit))  # noqa: S608
            return [_entry(row) for row in rows]

    def _prune(self, now: float) -> None:
        self._database.execute("DELETE FROM issued WHERE not_after < ?", (now - self._retention.age,))
        # Of the expired entries, newest end first, the one after the last kept (if any) bounds what goes.
        bound = self._database.execute(
            "SELECT not_after FROM issued WHERE not_after < ? ORDER BY not_after DESC LIMIT 1 OFFSET ?",
            (now, self._retention.entries),
        ).fetchone()
        if bound:
            self._database.execute("DELETE FROM issued WHERE not_after <= ?", bound)


def _entry(row: tuple[str, str, str, str, float, float, float, str, str]) -> Entry:
    serial, identity, replica, host, not_before, not_after, issued_at, spki, status = row
    return Entry(serial, identity, replica, host, not_before, not_after, issued_at, spki, Status(status))


def _connect(uri: str) -> sqlite3.Connection:
    # The lock of `Ledger` makes use from several threads safe.
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, check_same_thread=False)


def _prepare(path: Path, database: sqlite3.Connection) -> None:
    """Make the table where the file is new, else check its schema. Two openers at once make it once."""
    database.execute("BEGIN IMMEDIATE")
    with database:
        version, tables = _state(database)
        if version == 0 and not tables:
            for statement in _TABLE.split(";"):
                database.execute(statement)
            database.execute(f"PRAGMA user_version={SCHEMA}")
    _check_schema(path, database)


def _state(database: sqlite3.Connection) -> tuple[int, int]:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return version, tables


def _check_schema(path: Path, database: sqlite3.Connection) -> None:
    version, _ = _state(database)
    if version != SCHEMA:
        raise LedgerError(
            f"{path}: has ledger schema {version}, this Headrace has {SCHEMA}. Use the version that wrote it, or move "
            "the file away: certificates stay valid, only their record starts anew."
        )


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """SQLite's errors as LedgerErrors."""
    try:
        yield
    except sqlite3.Error as error:
        raise LedgerError(
            f"{path}: {quoted(str(error))}. If the file is damaged move it away: certificates stay valid, only their "
            "record starts anew."
        ) from error
