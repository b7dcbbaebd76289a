"""Tables of the ledger, and how those of an older Headrace become today's.

Called by `identity.ledger` when it opens the file. Migration happens in one transaction: a crash leaves the old tables.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

SCHEMA = 2
"""Number of the tables' layout (`PRAGMA user_version`). 1 had `issued` only, without issuer and fingerprint."""

_ISSUED = """
CREATE TABLE issued (
    serial TEXT PRIMARY KEY,
    identity TEXT NOT NULL,
    replica TEXT NOT NULL,
    host TEXT NOT NULL,
    not_before REAL NOT NULL,
    not_after REAL NOT NULL,
    issued_at REAL NOT NULL,
    spki_sha256 TEXT NOT NULL,
    status TEXT NOT NULL,
    issuer TEXT NOT NULL DEFAULT '',
    fingerprint TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;
CREATE INDEX issued_not_after ON issued (not_after);
CREATE INDEX issued_identity ON issued (identity, issued_at);
CREATE INDEX issued_replica ON issued (replica, issued_at)
"""
_ISSUED_FROM_1 = """
ALTER TABLE issued ADD COLUMN issuer TEXT NOT NULL DEFAULT '';
ALTER TABLE issued ADD COLUMN fingerprint TEXT NOT NULL DEFAULT ''
"""
_REVOCATION = """
CREATE INDEX issued_key ON issued (spki_sha256);
CREATE TABLE revoked (
    serial TEXT PRIMARY KEY,
    revoked_at REAL NOT NULL,
    reason TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE blocked (
    identity TEXT PRIMARY KEY,
    since REAL NOT NULL,
    reason TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE crl (
    issuer TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    pem TEXT NOT NULL,
    this_update REAL NOT NULL,
    next_update REAL NOT NULL
) STRICT, WITHOUT ROWID
"""
_STEPS = {0: _ISSUED + ";" + _REVOCATION, 1: _ISSUED_FROM_1 + ";" + _REVOCATION}


class SchemaError(Exception):
    """The file's layout is one that this Headrace does not know; the message says what to do."""


def prepare(path: Path, database: sqlite3.Connection) -> None:
    """Make the tables where the file is new, migrate older ones, refuse others with SchemaError. Two openers at once
    do it once."""
    database.execute("BEGIN IMMEDIATE")
    with database:
        version, tables = _state(database)
        if version in _STEPS and (version > 0 or not tables):
            for statement in _STEPS[version].split(";"):
                database.execute(statement)
            database.execute(f"PRAGMA user_version={SCHEMA}")
    check(path, database)


def check(path: Path, database: sqlite3.Connection) -> None:
    """SchemaError where the layout is not today's."""
    version, _ = _state(database)
    if version != SCHEMA:
        raise SchemaError(
            f"{path}: has ledger schema {version}, this Headrace has {SCHEMA}. Use the version that wrote it, or move "
            "the file away: certificates stay valid, only their record and what was revoked start anew."
        )


def _state(database: sqlite3.Connection) -> tuple[int, int]:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return version, tables
