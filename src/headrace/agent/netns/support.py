"""Whether this machine can do transparent capture, and what is in the way.

Called by `headrace up` (which chooses) and by the agent (which refuses to begin what cannot work).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_TOOLS = {"ip": "iproute2", "nft": "nftables", "nsenter": "util-linux"}
_STATUS = Path("/proc/self/status")
_NEEDED = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_SETUID": 7, "CAP_SETGID": 6, "CAP_CHOWN": 0, "CAP_KILL": 5}


def obstacle() -> str:
    """Why netns capture is impossible here, for people; empty where it is possible."""
    if os.geteuid() != 0:
        return "it needs root"
    missing = [name for name, bit in _NEEDED.items() if not _capabilities() >> bit & 1]
    if missing:
        return f"it needs {', '.join(missing)}"
    for tool, package in _TOOLS.items():
        if shutil.which(tool) is None:
            return f"there is no `{tool}` (Debian: apt-get install {package})"
    if not Path("/proc/self/ns/net").exists():
        return "this kernel has no network namespaces"
    return ""


def _capabilities() -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
