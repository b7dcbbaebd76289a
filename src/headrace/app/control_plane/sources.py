"""Follows the directories and files of documents: every change on disk becomes a change of the store.

Run by the control plane as one task; the reading itself is `config.documents`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from watchfiles import awatch

from headrace.config.documents import FileCache, ReadResult, read_paths
from headrace.config.mesh_config import read_mesh_config

_log = structlog.get_logger()
_STEP_MILLIS = 10
_DEBOUNCE_MILLIS = 50
_SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True)
class Source:
    """A directory or file of documents on disk, or the file of the MeshConfig."""

    path: Path
    mesh_config: bool = False
    _known: FileCache = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The owner's name of its documents: `dir:/the/path`, `file:/the/path` or `mesh-config:/the/path`."""
        kind = "mesh-config" if self.mesh_config else "dir" if self.path.is_dir() else "file"
        return f"{kind}:{self.path}"

    def read(self) -> ReadResult:
        """Its documents as they are on disk now. Files whose bytes did not change are not parsed again."""
        if self.mesh_config:
            return read_mesh_config(self.path, self.name)
        return read_paths([self.path], self.name, self._known)

    def concerns(self, changed: Path) -> bool:
        """Whether a change of that file can change what is read."""
        if changed == self.path:
            return True
        return self.path in changed.parents and (changed.suffix in _SUFFIXES or changed.is_dir() or not changed.suffix)

    @property
    def watched(self) -> Path:
        """What to watch: of a file its directory, because editors replace files."""
        return self.path if self.path.is_dir() else self.path.parent


async def follow(sources: Sequence[Source], changed: Callable[[str, ReadResult], None]) -> None:
    """Call `changed` with a source's whole content after each change of it; runs for ever.

    Polls where the kernel's notifications are not to be had (watchfiles does so by itself on such file systems).
    """
    watched = {source.watched for source in sources if source.watched.exists()}
    if not watched:
        await asyncio.Event().wait()
    async for changes in awatch(*sorted(watched), step=_STEP_MILLIS, debounce=_DEBOUNCE_MILLIS, rust_timeout=60_000):
        for source in _touched(sources, (Path(name) for _, name in changes)):
            try:
                changed(source.name, source.read())
            except OSError as error:
                _log.warning("documents cannot be read; the last good ones stay", source=source.name, error=str(error))


def _touched(sources: Iterable[Source], paths: Iterable[Path]) -> list[Source]:
    changed = set(paths)
    return [source for source in sources if any(source.concerns(path) for path in changed)]
