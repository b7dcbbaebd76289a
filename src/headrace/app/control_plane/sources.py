"""Follows the directories and files of documents: every change on disk becomes a change of the store.

Run by the control plane as one task; the reading itself is `config.documents`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
from watchfiles import awatch

from headrace.config.documents import ReadResult, read_paths

_log = structlog.get_logger()
_STEP_MILLIS = 10
_DEBOUNCE_MILLIS = 50
_SUFFIXES = (".yaml", ".yml", ".json")


def source_name(path: Path) -> str:
    """The owner's name of the documents below `path`: `dir:/the/path` or `file:/the/path`."""
    return f"{'dir' if path.is_dir() else 'file'}:{path}"


def read_source(path: Path) -> tuple[str, ReadResult]:
    """The documents of one source as they are on disk now."""
    name = source_name(path)
    return name, read_paths([path], name)


async def follow(paths: Sequence[Path], changed: Callable[[str, ReadResult], None]) -> None:
    """Call `changed` with a source's whole content after each change below one of `paths`; runs for ever.

    Polls where the kernel's notifications are not to be had (watchfiles does so by itself on such file systems).
    """
    existing = [path for path in paths if path.exists()]
    if not existing:
        await asyncio.Event().wait()
    async for changes in awatch(
        *existing, step=_STEP_MILLIS, debounce=_DEBOUNCE_MILLIS, rust_timeout=60_000, recursive=True
    ):
        touched = {Path(name) for _, name in changes}
        for path in existing:
            if any(
                item == path or path in item.parents for item in touched if item.suffix in _SUFFIXES or item == path
            ):
                try:
                    changed(*read_source(path))
                except OSError as error:
                    _log.warning("documents cannot be read; the last good ones stay", path=str(path), error=str(error))
