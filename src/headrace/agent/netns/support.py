"""Whether this machine can do transparent capture, and what is in the way.

Called by `headrace up` (which chooses) and by the agent (which refuses to begin what cannot work).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

_TOOLS = {"ip": "iproute2", "nft": "nftables", "nsenter": "util-linux"}
_SECONDS = 10.0
_RULES = """\
table inet trial {
  chain output {
    type nat hook output priority -100;
    meta skuid 1 oifname "lo" ip daddr != 127.0.0.0/8 meta l4proto tcp redirect to :1
    meta skuid 1 ip daddr 192.0.2.1 udp dport 53 dnat ip to 192.0.2.1:1
  }
  chain leaving {
    type filter hook output priority filter;
    ct status dnat counter accept
    meta skuid 0-4294967295 reject with icmpx admin-prohibited
  }
}
"""
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
    return _trial()


def _trial() -> str:
    """Whether a namespace with rules like a replica's can really be made: containers and kernels differ."""
    command = ("unshare", "--net", "--mount", "--ipc", "--uts", "nft", "-f", "-")
    try:
        done = subprocess.run(command, input=_RULES, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"a network namespace cannot be made ({type(error).__name__})"
    words = " ".join(done.stderr.split())[:200]
    return "" if done.returncode == 0 else f"a network namespace with rules cannot be made ({words})"


def _capabilities() -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
