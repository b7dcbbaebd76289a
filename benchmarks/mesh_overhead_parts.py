"""Where the cost of the two sidecars comes from: their own configuration with one thing taken away at a time.

    python benchmarks/mesh_overhead_parts.py [--rounds N] [--write]

The configuration of both sidecars of mesh_overhead.py is copied from the running Envoys into static files (so the first
row is the mesh without discovery), and each further pair leaves something out. Compared is the processor time that both
proxies use for a request, at 16 connections, with that of the bare Envoy pair in the same round.

Needs wrk.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mesh_overhead as overhead
from rigs import envoys, processes, report, wrk
from rigs.mesh import Mesh, running_mesh
from rigs.static_copy import Json, config_dump, each, static_copy

Change = Callable[[Json], None]
_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_MANAGER = (
    "normalize_path",
    "path_with_escaped_slashes_action",
    "forward_client_cert_details",
    "set_current_client_cert_details",
    "server_name",
)


def without_filters(*names: str) -> Change:
    """No HTTP filters whose names hold one of these."""

    def visit(node: Json) -> None:
        if "http_filters" in node:
            kept = [item for item in node["http_filters"] if not any(name in item["name"] for name in names)]
            node["http_filters"] = kept

    return lambda resources: each(resources, visit)


def without_manager(*fields: str) -> Change:
    """Connection managers without these fields."""
    return lambda resources: each(resources, lambda node: _drop(node, fields) if "http_filters" in node else None)


def without_action(*fields: str) -> Change:
    """Route actions without these fields."""
    return lambda resources: each(
        resources, lambda node: _drop(node["route"], fields) if "match" in node and "route" in node else None
    )


def without_cluster(*fields: str) -> Change:
    """Clusters without these fields."""

    def change(resources: Json) -> None:
        for cluster in resources["clusters"]:
            _drop(cluster, fields)

    return change


def with_http2(resources: Json) -> None:
    """HTTP/2 between the sidecars."""
    for cluster in resources["clusters"]:
        if cluster["name"] == "outbound|80||bench.default.svc.cluster.local":
            options = {"@type": f"type.googleapis.com/{_HTTP}", "explicit_http_config": {"http2_protocol_options": {}}}
            cluster["typed_extension_protocol_options"] = {_HTTP: options}
            each(cluster, lambda node: node.update(alpn_protocols=["h2"]) if "alpn_protocols" in node else None)


def _drop(node: Json, fields: tuple[str, ...]) -> None:
    for field in fields:
        node.pop(field, None)


FILTERS = without_filters("dynamic_modules", "basic_auth", "dynamic_forward", "grpc_stats", "fault", "cors")
MANAGER = without_manager(*_MANAGER)
RETRIES = without_action("retry_policy")
REST = without_manager("upgrade_configs", "stream_idle_timeout")
VARIANTS: Mapping[str, tuple[Change, ...]] = {
    "all of it": (),
    "no native module": (without_filters("dynamic_modules"),),
    "no credentials (basic_auth)": (without_filters("basic_auth"),),
    "no fault and CORS filters": (without_filters("fault", "cors"),),
    "no gRPC statistics": (without_filters("grpc_stats"),),
    "no HTTP filter but the router": (FILTERS,),
    "no x-forwarded-client-cert, path normalisation, server name": (MANAGER,),
    "no retries": (RETRIES,),
    "none of these": (FILTERS, MANAGER, RETRIES, REST, without_cluster("circuit_breakers", "metadata")),
    "HTTP/2 between the sidecars": (with_http2,),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--write", action="store_true", help="put the section into RESULTS.md")
    arguments = parser.parse_args()
    used: dict[str, list[float]] = {}
    program = wrk.program()
    with wrk.on_load_core(), contextlib.ExitStack() as stack:
        found = ways(stack)
        for way in found:
            wrk.measure(program, way, 16, 1.0)
        for _ in range(arguments.rounds):
            for way in found:
                used.setdefault(way.name, []).append(wrk.measure(program, way, 16, 1.0).cpu)
    bare = used["bare Envoy pair"]
    rows = [
        [
            name,
            report.spread(values, 0),
            report.spread([mine / other for mine, other in zip(values, bare, strict=True)]),
        ]
        for name, values in used.items()
    ]
    lines = [__doc__.split("\n\n")[2].replace("\n", " "), ""]
    lines += report.table(["", "CPU µs/request", "against the bare pair"], rows)
    lines += ["", f"{arguments.rounds} rounds, medians (lowest to highest)."]
    report.publish("Where the cost of the two sidecars comes from", lines, write=arguments.write)


def ways(stack: contextlib.ExitStack) -> list[wrk.Way]:
    """The bare pair, then one pair for each variant; all run at once, one at a time gets load."""
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hr-parts-")))
    documents = overhead.DOCUMENTS % {"server": Path(envoys.__file__).resolve(), "directory": directory}
    mesh = stack.enter_context(running_mesh({"bench.yaml": documents}))
    rows = mesh.proxies()
    backend = ("127.0.0.1", int(rows[overhead.SERVER]["app_ports"]["8000"]))
    processes.pin(rows[overhead.SERVER]["app_pid"], wrk.LOAD_CORE)
    plain = overhead.lua(directory / "plain.lua", "bench", "")
    found = [overhead.bare_pair(stack, directory, backend, plain)]
    way = overhead.sidecars("", "bench", mesh, directory)
    _module_path(rows[overhead.CLIENT]["proxy_pid"])
    own = {name: _copy(mesh, replica, directory) for name, replica in _SIDES.items()}
    for number, (name, changes) in enumerate(VARIANTS.items()):
        client = f"127.77.{number}.1"
        moved = {
            rows[overhead.CLIENT]["address"]: client,
            rows[overhead.SERVER]["address"]: f"127.77.{number}.2",
        }
        pids = []
        for side, resources in own.items():
            bootstrap, log = directory / f"{side}-{number}.json", directory / f"{side}-{number}.log"
            admin = envoys.write_bootstrap(bootstrap, _changed(resources, moved, changes))
            process = stack.enter_context(processes.running(envoys.command(bootstrap), log))
            processes.wait_for(admin, log)
            processes.pin(process.pid, wrk.PROXY_CORE)
            pids.append(process.pid)
        found.append(wrk.Way(name, (client, way.address[1]), way.script, tuple(pids)))
    return found


_SIDES = {"server": overhead.SERVER, "client": overhead.CLIENT}


def _copy(mesh: Mesh, replica: str, certificates: Path) -> Json:
    proxy = urlsplit(mesh.environment(overhead.CLIENT)["HTTP_PROXY"])
    digest = base64.b64encode(hashlib.sha1((proxy.password or "").encode()).digest()).decode()
    side = "client" if replica == overhead.CLIENT else "server"
    dump = config_dump(mesh.places.admin_socket(replica))
    return static_copy(dump, certificates, side, f"{proxy.username}:{{SHA}}{digest}")


def _changed(resources: Json, moved: Mapping[str, str], changes: tuple[Change, ...]) -> Json:
    text = json.dumps(resources)
    for old, new in moved.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    copy: Any = json.loads(text)
    for change in changes:
        change(copy)
    found: Json = copy
    return found


def _module_path(pid: int) -> None:
    """Let our own Envoys find the native module where the mesh's do."""
    for variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
        name, _, value = variable.decode(errors="replace").partition("=")
        if name == "ENVOY_DYNAMIC_MODULES_SEARCH_PATH":
            os.environ[name] = value


if __name__ == "__main__":
    main()
