"""A program that puts a process into its replica's namespace under its own user, then becomes that process.

Run as `python -I -S enter.py FACTS COMMAND...` by what `capture` starts; it imports nothing of Headrace. FACTS is JSON:
`namespace` (file), `user`, `name` (of the machine, as the process sees it), `files` (pairs: what lies where, for this
process only), `reveal` (paths below directories that the user may not enter, shown to it alone). The process's own
environment comes with the prefix `PREFIX`: no variable of a document (LD_PRELOAD) has an effect on this program, which
is root. What it becomes has no capability, cannot gain one, and cannot leave the namespace. `pathlib` would take
as long to load as all of this.
"""

# ruff: noqa: PTH103, PTH109, PTH110, PTH116, PTH118, PTH120

from __future__ import annotations

import ctypes
import json
import os
import stat
import sys

PREFIX = "+"
_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC, _CLONE_NEWNET = 0x00020000, 0x04000000, 0x08000000, 0x40000000
_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_RDONLY, _MS_REMOUNT = 0x1000, 0x4000, 1 << 18, 1, 32
_MS_NOSUID, _MS_NODEV = 2, 4
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECUREBITS = 24, 38, 28
_SECURE_LOCKED = 0x2B  # no rights for user 0, none kept when users change, all locked (linux/securebits.h)
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
_PORTS = "/proc/sys/net/ipv4/ip_unprivileged_port_start"

_libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> None:
    """Never returns: becomes the command, or ends with a reason on standard error."""
    facts = json.loads(arguments[0])
    directory = os.getcwd()
    _enter(facts["namespace"], facts["name"])
    _see(facts["files"], facts["reveal"], facts["user"])
    os.chdir(directory)
    _become(facts["user"])
    environment = {name[len(PREFIX) :]: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    try:
        os.execvpe(arguments[1], arguments[1:], environment)  # noqa: S606 - that is what this program is for
    except OSError as error:
        print(f"headrace: {arguments[1]}: {error.strerror}", file=sys.stderr)
        sys.exit(_NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE)


def _enter(namespace: str, name: str) -> None:
    handle = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    _call("setns", handle, _CLONE_NEWNET)
    os.close(handle)
    _call("unshare", _CLONE_NEWNS | _CLONE_NEWIPC | _CLONE_NEWUTS)
    _call("sethostname", name.encode(), len(name.encode()))
    _mount("none", "/", _MS_REC | _MS_PRIVATE)
    with open(_PORTS, "w") as ports:  # any port is the application's own to take: the namespace is its own
        ports.write("0")


def _see(files: list[list[str]], reveal: list[str], user: int) -> None:
    for source, target in files:
        if os.path.exists(target):
            _mount(source, os.path.realpath(target), _MS_BIND)
    covered: dict[str, dict[str, int]] = {}
    for path in reveal:
        real = os.path.realpath(path)
        barrier = _barrier(real, user)
        if barrier is not None and os.path.exists(real):
            covered.setdefault(barrier, {})[real] = os.open(real, os.O_PATH)
    for barrier, paths in covered.items():
        _mount("tmpfs", barrier, _MS_NOSUID | _MS_NODEV, "tmpfs", "mode=0755,size=64k")
        for real, handle in paths.items():
            _show(real, handle)


def _barrier(path: str, user: int) -> str | None:
    """The first directory above the path that the user may not enter."""
    above = "/"
    for part in path.strip("/").split("/"):
        found = os.stat(above)
        mine = found.st_uid == user and found.st_mode & stat.S_IXUSR
        if not mine and not found.st_mode & stat.S_IXOTH:
            return above
        above = os.path.join(above, part)
    return None


def _show(real: str, handle: int) -> None:
    if stat.S_ISDIR(os.fstat(handle).st_mode):
        os.makedirs(real, 0o755, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(real), 0o755, exist_ok=True)
        os.close(os.open(real, os.O_CREAT | os.O_WRONLY, 0o644))
    _mount(f"/proc/self/fd/{handle}", real, _MS_BIND | _MS_REC)
    os.close(handle)


def _become(user: int) -> None:
    with open("/proc/sys/kernel/cap_last_cap") as file:
        last = int(file.read())
    for capability in range(last + 1):
        _call("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)
    _call("prctl", _PR_SET_SECUREBITS, _SECURE_LOCKED, 0, 0, 0)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)  # from 0 to another user: every capability goes
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.umask(0o077)


def _mount(source: str, target: str, flags: int, kind: str = "", options: str = "") -> None:
    words = (source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), options.encode() or None)
    _call("mount", *words)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    main(sys.argv[1:])
