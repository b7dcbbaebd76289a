"""The way from a mesh's namespaces to the world outside: forwarding and address translation on this machine.

Called by `capture` (open, again with every new replica) and `leftovers` (close). Forwarding is switched on for the
mesh's own interface and for those that routes use, for connections that replicas open and no others. What was switched
on is written down first, for all meshes of the machine together, and switched off again when the last of them ends.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from headrace.agent.netns import links
from headrace.agent.netns.plan import RUNTIME, MeshNet
from headrace.floor.files import write_private

_RECORD = RUNTIME / "forwarding.json"


def open_way_out(net: MeshNet, *, again: bool = False) -> None:
    """Let connections of replicas out, and nothing in; again where interfaces may have come."""
    before = _recorded()
    switched = list(before)
    for family in ("ipv4", "ipv6"):
        for interface in (net.uplink, *links.outward_interfaces(family)):
            setting = Path(f"/proc/sys/net/{family}/conf/{interface}/forwarding")
            with contextlib.suppress(OSError):
                if setting.read_text().strip() != "0":
                    continue
                if interface != net.uplink and str(setting) not in switched:
                    switched.append(str(setting))
                    write_private(_RECORD, json.dumps(switched).encode())
                setting.write_text("1")
    if switched != before or not again:
        links.load_rules(None, forwarding(net, sorted({Path(path).parent.name for path in switched})))


def close_way_out(mesh: str) -> None:
    """Undo it; the mesh's own directory below RUNTIME is gone."""
    with contextlib.suppress(links.LinkError):
        links.load_rules(None, f"table inet {_table(mesh)} {{}}\ndelete table inet {_table(mesh)}\n")
    if RUNTIME.exists() and any(item.is_dir() for item in RUNTIME.iterdir()):
        return
    for path in _recorded():
        with contextlib.suppress(OSError):
            Path(path).write_text("0")
    _RECORD.unlink(missing_ok=True)


def forwarding(net: MeshNet, opened: list[str]) -> str:
    """The table of this machine's own network: `opened` are interfaces that forward only because the mesh asked, so
    that they take no new connection for anybody else (but those that another's rules translate, as for containers)."""
    up = net.uplink
    ranges = [f"ip saddr {net.block}"] + ([f"ip6 saddr {net.unique}"] if net.unique is not None else [])
    passing = [
        f'iifname "{up}" oifname != "{up}" accept',
        f'oifname "{up}" ct state established,related accept',
        f'oifname "{up}" drop',
        *(f'iifname "{name}" ct state new ct status & dnat == 0 drop' for name in opened),
    ]
    translated = [f'{block} oifname != "{up}" masquerade' for block in ranges]
    name = _table(net.mesh)
    return (
        f"table inet {name} {{}}\ndelete table inet {name}\ntable inet {name} {{\n"
        + _chain("passing", "type filter hook forward priority filter", passing)
        + _chain("translated", "type nat hook postrouting priority srcnat", translated)
        + "}\n"
    )


def _chain(name: str, hook: str, rules: list[str]) -> str:
    return f"  chain {name} {{\n    {hook}; policy accept;\n" + "".join(f"    {rule}\n" for rule in rules) + "  }\n"


def _table(mesh: str) -> str:
    return f"headrace_{mesh}"


def _recorded() -> list[str]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(_RECORD.read_bytes())
        return [
            str(path)
            for path in found
            if isinstance(path, str) and path.startswith("/proc/sys/net/") and path.endswith("/forwarding")
        ]
    return []
