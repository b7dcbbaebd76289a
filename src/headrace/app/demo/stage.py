"""The demo's mesh: a copy of the canary example with a faster client and a short ejection, and handles to play with it.

The copy is edited as a user would edit the files, and the mesh follows them; replicas are made sick by a signal to
their process; ejections are read from the client's own Envoy.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from headrace.app.api.client import ApiClient, ask_admin
from headrace.app.cli import CommandFailed
from headrace.floor.files import write_private
from headrace.floor.places import Places

V1, V2 = "v1-fast-model", "v2-smart-model"
_CLIENT = "default/client-0"
_CLUSTER = f"outbound|80|{V2}|ai-inference-service.default.svc.cluster.local"


def find_example(name: str) -> Path:
    """The directory of an example: of the repository this runs from, or as installed. CommandFailed without it."""
    here = Path(__file__).resolve()
    candidates = [here.parents[4] / "examples" / name, Path(sys.prefix) / "share" / "headrace" / "examples" / name]
    for candidate in candidates:
        if (candidate / "articles.yaml").exists():
            return candidate
    raise CommandFailed(f"the example {name!r} is not installed: run from the repository, or name it with --example")


def copy_example(source: Path, target: Path, *, rate: float, ejection: str, interval: str) -> None:
    """Copy the example's files; the client sends `rate` requests a second, a sick replica is ejected for `ejection`
    and looked for every `interval`. CommandFailed where the example is not the one this was written for."""
    target.mkdir(parents=True, exist_ok=True)
    for item in sorted(source.iterdir()):
        if item.is_file():
            shutil.copyfile(item, target / item.name)
    _edit(target / "workloads.yaml", r'(name: RATE\s+value: )"[^"]*"', rf'\g<1>"{rate:g}"')
    _edit(target / "articles.yaml", r"baseEjectionTime: \S+", f"baseEjectionTime: {ejection}")
    _edit(target / "articles.yaml", r"interval: \S+", f"interval: {interval}")


def set_weights(directory: Path, first: int, second: int) -> None:
    """Change the two weights of the articles' VirtualService in the file, atomically."""
    path = directory / "articles.yaml"
    weights = iter((first, second))
    text, count = re.subn(r"weight: \d+", lambda _: f"weight: {next(weights)}", path.read_text())
    if count != 2:
        raise CommandFailed(f"{path}: two weights expected, {count} found")
    write_private(path, text.encode())


def _edit(path: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, path.read_text(), count=1)
    if count != 1:
        raise CommandFailed(f"{path}: the demo's settings do not fit this example ({pattern} not found)")
    write_private(path, text.encode())


class Replicas:
    """The running replicas, by the API of the mesh."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._api = ApiClient(places.state)

    def of(self, workload: str) -> list[dict[str, Any]]:
        """Replicas of a workload of namespace default, by name."""
        rows = self._api.call("GET", "/v1/proxies")
        return [row for row in rows if str(row["proxy"]).rpartition("-")[0] == f"default/{workload}"]

    def make_sick(self, row: dict[str, Any]) -> None:
        """From now on the replica's model server answers 500 (see `headrace model-server --help`)."""
        os.kill(int(row["app_pid"]), signal.SIGUSR1)

    def heal(self, row: dict[str, Any]) -> None:
        """The replica's model server works again."""
        os.kill(int(row["app_pid"]), signal.SIGUSR2)

    def hosts(self) -> dict[str, dict[str, Any]]:
        """What the client's Envoy knows of the endpoints of version 2, by address: `ejected`, `requests`."""
        admin = self._places.admin_socket(_CLIENT)
        clusters = ask_admin(admin, "/clusters?format=json", 5.0)["cluster_statuses"]
        found: dict[str, dict[str, Any]] = {}
        for cluster in clusters:
            if cluster["name"] != _CLUSTER:
                continue
            for host in cluster.get("host_statuses", ()):
                stats = {item["name"]: int(item.get("value", 0)) for item in host.get("stats", ())}
                found[host["address"]["socket_address"]["address"]] = {
                    "ejected": bool(host.get("health_status", {}).get("failed_outlier_check")),
                    "requests": stats.get("rq_total", 0),
                }
        return found
