"""Documents that survive a restart of the control plane: those applied by people, and the last good ones of sources.

A SQLite file that only its owner may read (Secrets stand in it). Given to `ConfigStore` by the control plane.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path as FilePath

from headrace.config.documents import Document, Path, digest_of
from headrace.config.schema import validate
from headrace.config.store import Change, Stored

_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    source TEXT NOT NULL, kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    version INTEGER NOT NULL, applied INTEGER NOT NULL,
    file TEXT NOT NULL, line INTEGER NOT NULL, position INTEGER NOT NULL, data TEXT NOT NULL, lines TEXT NOT NULL,
    PRIMARY KEY (source, kind, namespace, name)
) WITHOUT ROWID
"""


class JournalError(Exception):
    """The journal cannot be opened or read; the message says why and what to do."""


class SqliteJournal:
    """The journal in an open database."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    @classmethod
    def open(cls, path: FilePath) -> SqliteJournal:
        """The journal at `path`, made with mode 0600 where it does not exist; JournalError where it cannot be used."""
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            path.chmod(0o600)
            database = sqlite3.connect(path, isolation_level=None)
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
            database.execute(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise JournalError(f"{path}: {error}: move the file away to start without applied documents") from None
        return cls(database)

    def write(self, changes: Sequence[Change]) -> None:
        """Keep and forget documents, all or nothing."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            for change in changes:
                self._write(change)
            self._database.execute("COMMIT")
        except BaseException:
            self._database.execute("ROLLBACK")
            raise

    def read(self) -> list[Stored]:
        """Every kept document, judged again by today's rules; those that these refuse are left out."""
        found = []
        rows = self._database.execute(
            "SELECT source, namespace, version, applied, file, line, position, data, lines FROM documents "
            "ORDER BY source, file, position, kind, namespace, name"
        )
        for source, namespace, version, applied, file, line, position, data, lines in rows:
            document = _document(data, lines, (source, namespace, file, line, position))
            resource, key, problems = validate(document)
            if resource is not None and key is not None:
                found.append(Stored(key, document, resource, version, problems, bool(applied)))
        return found

    def close(self) -> None:
        self._database.close()

    def _write(self, change: Change) -> None:
        key, stored = change.key, change.stored
        names = (change.source, key.kind, key.namespace, key.name)
        if stored is None:
            self._database.execute("DELETE FROM documents WHERE (source, kind, namespace, name) = (?, ?, ?, ?)", names)
            return
        document = stored.document
        lines = json.dumps([[list(path), line] for path, line in document.lines.items()])
        place = (document.file, document.line, document.index, json.dumps(document.data), lines)
        self._database.execute(
            "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*names, stored.version, int(stored.applied), *place),
        )


def _document(data_text: str, lines_text: str, place: tuple[str, str, str, int, int]) -> Document:
    source, namespace, file, line, position = place
    data = json.loads(data_text)
    lines: dict[Path, int] = {tuple(path): at for path, at in json.loads(lines_text)}
    metadata = data["metadata"]
    return Document(
        kind=data["kind"],
        api_version=data["apiVersion"],
        namespace=namespace,
        name=metadata["name"],
        data=data,
        lines=lines,
        file=file,
        line=line,
        source=source,
        index=position,
        digest=digest_of(data),
    )
