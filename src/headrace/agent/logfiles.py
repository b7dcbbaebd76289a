"""Keeps the logs of workloads and proxies small.

Processes write to their log files themselves, so that they lose nothing when the agent is killed; a pipe through the
agent would break with it. A file over the limit is therefore copied to `NAME.1` and cut to nothing in place (writers
append): lines written between copy and cut are lost, which is the price. Called by `agent.host` every few seconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import structlog

from headrace.floor.files import OWNER_ONLY_FILE

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_CHUNK = 1 << 20


def shorten(paths: Iterable[Path], limit: int) -> None:
    """Rotate every log of more than `limit` bytes; only its last `limit` bytes are kept in `NAME.1`."""
    for path in paths:
        try:
            if path.stat().st_size > limit:
                _rotate(path, limit)
        except FileNotFoundError:
            continue
        except OSError as error:
            _log.warning("log not rotated", path=str(path), error=str(error))


def _rotate(path: Path, limit: int) -> None:
    older = path.with_name(path.name + ".1")
    older.unlink(missing_ok=True)
    target = os.open(older, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWNER_ONLY_FILE)
    with open(path, "rb+", buffering=0) as source, os.fdopen(target, "wb") as kept:
        source.seek(max(0, source.seek(0, os.SEEK_END) - limit))
        while chunk := source.read(_CHUNK):
            kept.write(chunk)
        source.truncate(0)
