"""Follows the directories and files of documents: every change on disk becomes a change of the store.

Run by the control plane as one task; the reading itself is `config.documents`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path

import structlog
from watchfiles import awatch

from headrace.config.documents import FileCache, ReadResult, read_paths
from headrace.config.mesh_config import read_mesh_config

_log = structlog.get_logger()
_STEP_MILLIS = 10
_DEBOUNCE_MILLIS = 50
_LOOK_MILLIS = 500
_SUFFIXES = (".yaml", ".yml", ".json")


class Source:
    """A directory or file of documents on disk, or the file of the MeshConfig.

    `name` is the owner's name of its documents (`dir:/the/path`, `file:/the/path`, `mesh-config:/the/path`), the same
    for as long as the control plane runs, whatever becomes of the path.
    """

    def __init__(self, path: Path, *, mesh_config: bool = False) -> None:
        self.path = path
        self.is_mesh_config = mesh_config
        # A path that is missing now will most likely be again what its name looks like.
        is_file = path.is_file() or (path.suffix in _SUFFIXES and not path.is_dir())
        self.name = f"{'mesh-config' if mesh_config else 'file' if is_file else 'dir'}:{path}"
        self._cache: FileCache = {}

    def read(self) -> ReadResult:
        """Its documents as they are on disk now; only files whose bytes changed are parsed again."""
        if self.is_mesh_config:
            return read_mesh_config(self.path, self.name)
        return read_paths([self.path], self.name, self._cache)

    def concerns(self, changed: Path) -> bool:
        """Whether a change of that file can change what is read."""
        if changed == self.path:
            return True
        return self.path in changed.parents and (changed.suffix in _SUFFIXES or changed.is_dir() or not changed.suffix)

    @property
    def watched(self) -> Path:
        """What to watch: of a file its directory, because editors replace files."""
        return self.path.parent if self.is_mesh_config or self.name.startswith("file:") else self.path


async def follow(sources: Sequence[Source], changed: Callable[[str, ReadResult], None]) -> None:
    """Call `changed` with a source's whole content after each change of it; runs for ever.

    Polls where the kernel's notifications are not to be had (watchfiles does so by itself on such file systems). The
    kernel watches a directory, not its name: where another one takes its place (a checkout, a rename, a link that is
    turned), it is noticed within a second and watched instead. Everything is read once more after a watch has begun,
    for what changed just before.
    """
    watched = sorted({source.watched for source in sources})
    if not watched:
        await asyncio.Event().wait()
    while True:
        seen, quiet = _identities(watched), False
        try:
            async with aclosing(_changes([path for path in watched if seen[path]])) as changes:
                async for paths in changes:
                    for source in _touched(sources, paths) if paths or quiet else sources:
                        await _read(source, changed)
                    quiet = quiet or not paths
                    if _identities(watched) != seen:
                        break
        except OSError as error:  # a directory went away between the look and the watch
            _log.warning("documents cannot be watched; trying again", error=str(error))
            await asyncio.sleep(_LOOK_MILLIS / 1000)
        for source in sources:
            await _read(source, changed)


async def _changes(watched: Sequence[Path]) -> AsyncGenerator[set[Path], None]:
    """The paths that changed below directories; an empty set where nothing did for a moment."""
    while not watched:
        await asyncio.sleep(_LOOK_MILLIS / 1000)
        yield set()
    async for changes in awatch(
        *watched, step=_STEP_MILLIS, debounce=_DEBOUNCE_MILLIS, rust_timeout=_LOOK_MILLIS, yield_on_timeout=True
    ):
        yield {Path(name) for _, name in changes}


async def _read(source: Source, changed: Callable[[str, ReadResult], None]) -> None:
    """Read in a thread: a file of megabytes must not keep proxies waiting."""
    try:
        changed(source.name, await asyncio.to_thread(source.read))
    except OSError as error:
        _log.warning("documents cannot be read; the last good ones stay", source=source.name, error=str(error))


def _identities(paths: Iterable[Path]) -> dict[Path, tuple[int, int] | None]:
    """Which directory each name stands for now (device and inode); None for none."""
    found: dict[Path, tuple[int, int] | None] = {}
    for path in paths:
        try:
            status = path.stat()
            found[path] = (status.st_dev, status.st_ino)
        except OSError:
            found[path] = None
    return found


def _touched(sources: Iterable[Source], paths: Iterable[Path]) -> list[Source]:
    changed = set(paths)
    return [source for source in sources if any(source.concerns(path) for path in changed)]
