"""Unix sockets that only their owner may open."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_BACKLOG = 128


def private_listener(path: Path) -> socket.socket:
    """A listening Unix socket with mode 0600 from the moment it exists; one left behind at `path` is replaced."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o177)
    try:
        listener.bind(str(path))
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(umask)
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener
