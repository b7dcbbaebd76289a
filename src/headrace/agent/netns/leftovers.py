"""Removes what a mesh has on this machine beside its processes: namespaces, interfaces, rules, sockets.

Called by `capture` at the end and before it builds anew, and by `headrace down` after a crash of everything. What
belongs to a mesh is found by its id; other meshes' things are not touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Collection

from headrace.agent.netns import egress, links
from headrace.agent.netns.plan import RUNTIME

_KILL_SECONDS = 5.0
_POLL = 0.02


def anything(mesh: str) -> bool:
    """Whether something of the mesh is there."""
    return bool(links.namespaces_of(mesh)) or (RUNTIME / mesh).exists()


def remove(mesh: str) -> None:
    """End what still runs in the mesh's namespaces, and take away the rest."""
    names = links.namespaces_of(mesh)
    end_inside(names)
    for name in names:
        with contextlib.suppress(links.LinkError):
            links.remove_namespace(name)
    shutil.rmtree(RUNTIME / mesh, ignore_errors=True)
    egress.close_way_out(mesh)
    with contextlib.suppress(OSError):
        RUNTIME.rmdir()


def end_inside(names: Collection[str], user: int | None = None) -> None:
    """Kill every process in these namespaces, and every one of this user wherever it is."""
    deadline = time.monotonic() + _KILL_SECONDS
    while time.monotonic() < deadline:
        pids = set(links.inside(names)) | (set() if user is None else links.processes_of(user))
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL)
