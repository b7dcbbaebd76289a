"""Open connections to a local port, as the kernel lists them (proc(5), /proc/net/tcp).

Used by `agent.replica` to drain a process that its proxy no longer sends new requests to: what it still has open are
requests in flight, because the proxy closes idle connections to an endpoint that it lost.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

_ESTABLISHED = "01"
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LOOPBACK = ("0100007F", "0000000000000000FFFF00000100007F")


def connections_to(ports: Collection[int], tables: Collection[Path] = _TABLES) -> int:
    """Established connections whose local end is 127.0.0.1 and one of `ports`."""
    wanted = {f"{address}:{port:04X}" for address in _LOOPBACK for port in ports}
    count = 0
    for table in tables:
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split(None, 4)
            count += len(fields) > 3 and fields[3] == _ESTABLISHED and fields[1] in wanted
    return count
