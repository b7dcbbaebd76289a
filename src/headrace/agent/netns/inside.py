"""Does something inside another network namespace, in a thread that ends there: no other thread ever changes its own.

Used by `agent.netns` to make sockets that see a replica's 127.0.0.1. A socket stays in the namespace where it was made.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000


def in_namespace(path: Path, work: Callable[[], T]) -> T:
    """What `work` returns in the namespace that the file stands for; OSError where there is none."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(handle, _CLONE_NEWNET) != 0:
                    number = ctypes.get_errno()
                    raise OSError(number, f"{path}: {os.strerror(number)}")
            finally:
                os.close(handle)
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=f"namespace {path.name}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
