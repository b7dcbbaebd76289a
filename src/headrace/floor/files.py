"""Files that only their owner may read, and that are never seen half-written."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

OWNER_ONLY_FILE = 0o600
OWNER_ONLY_DIRECTORY = 0o700


def make_private_directory(path: Path) -> Path:
    """The directory, made with its parents where missing, with mode 0700 (also where it stood with a wider mode)."""
    path.mkdir(parents=True, exist_ok=True, mode=OWNER_ONLY_DIRECTORY)
    if path.stat().st_mode & 0o077:
        path.chmod(OWNER_ONLY_DIRECTORY)
    return path


def write_private(path: Path, data: bytes, *, durable: bool = True, owner: int | None = None) -> None:
    """Replace the file by `data` atomically, mode 0600 from its first byte on. Not `durable`: it need not outlive the
    machine's next crash, and nobody waits for the disk. `owner`: another user whose file it is to be."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "wb") as file:
            if owner is not None:
                os.fchown(handle, owner, owner)
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
