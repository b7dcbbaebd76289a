"""What the native module costs when it does its whole work: against plain Envoy, round robin, in one run.

    python benchmarks/module_overhead.py [--rounds N] [--seconds S] [--resend] [--write]

Two Envoys with one worker each take turns in every round before the same four constant backends (one more Envoy, which
reads the whole body before it answers): one with the router alone and round robin, one with the filter and policy
`pool`, which reads and hashes the body, keeps the books, picks by predicted drain, reads the usage in the answer and
reports statistics and metadata. Bodies are chat completions of 1 KiB, 20 KB and 220 KB, each different in its last
message. One connection gives the latency, 16 give the throughput; the processor's time is the proxy's for each request
at 16, and depends less on what else the machine does. The proxies share one core; load and backends share the other.

Needs wrk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rigs import envoys, processes, report, wrk

from headrace.envoy.module import SEARCH_PATH, module_path
from headrace.envoy.module_filter import MODULE_NAME
from headrace.floor.files import write_private

SIZES = {"1 KiB": 1024, "20 KB": 20_000, "220 KB": 220_000}
CONNECTIONS = (1, 16)
BACKENDS = 4
LONGEST = 1 << 20
_API = "type.googleapis.com/envoy."
_STRING = "type.googleapis.com/google.protobuf.StringValue"
SCRIPT = """\
local before, after, number = [==[%(before)s]==], [==[%(after)s]==], 0
request = function()
  number = number + 1
  return wrk.format("POST", "/v1/chat/completions", {["Host"] = "bench", ["Content-Type"] = "application/json"},
    before .. number .. after)
end
"""


def main() -> None:
    arguments = _arguments()
    samples: dict[tuple[str, str, int], list[wrk.Sample]] = {}
    program = wrk.program()
    with contextlib.ExitStack() as stack:
        stack.enter_context(wrk.on_load_core())
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="hr-bench-"))
        plain, module = stack.enter_context(ways(Path(name), resend=arguments.resend)).ways
        scripts = {size: script(Path(name), size) for size in SIZES}
        for way in (plain, module):
            wrk.measure(program, replace(way, script=scripts["1 KiB"]), 16, 1.0)  # warm
        for number in range(arguments.rounds):
            order = (plain, module) if number % 2 == 0 else (module, plain)
            for size, file in scripts.items():
                for connections in CONNECTIONS:
                    for way in order:
                        sample = wrk.measure(program, replace(way, script=file), connections, arguments.seconds)
                        samples.setdefault((way.name, size, connections), []).append(sample)
    publish(samples, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run of wrk")
    parser.add_argument(
        "--resend", action="store_true", help="with the filter attempt, so that requests can be sent again"
    )
    parser.add_argument("--write", action="store_true", help="put the section into RESULTS.md")
    return parser.parse_args()


def script(directory: Path, size: str) -> Path:
    """The script of wrk that posts chat completions of a size of `SIZES`."""
    words = "What does a headrace do, and why is it called that? "
    filler = (words * (SIZES[size] // len(words) + 1))[: SIZES[size] - 120]
    before = '{"model":"constant","max_tokens":64,"messages":[{"role":"user","content":"' + filler
    file = directory / f"{size.replace(' ', '')}.lua"
    write_private(file, (SCRIPT % {"before": before, "after": '"}]}'} + wrk.DONE).encode())
    return file


@dataclass(frozen=True, slots=True)
class Rig:
    """Envoy alone, Envoy with the module, and the ports of the backends behind them."""

    ways: tuple[wrk.Way, wrk.Way]
    backends: tuple[int, ...]


@contextlib.contextmanager
def ways(directory: Path, *, resend: bool = False) -> Iterator[Rig]:
    """The two Envoys, ready, and their backends."""
    with contextlib.ExitStack() as stack:
        backends = [wrk.free_port() for _ in range(BACKENDS)]
        resources = {"listeners": [_backend(port) for port in backends]}
        _start(stack, directory, "backends", resources, wrk.LOAD_CORE)
        found = []
        for name in ("plain", "module"):
            port = wrk.free_port()
            proxy = _proxy(port, backends, module=name == "module", resend=resend)
            pid = _start(stack, directory, name, proxy, wrk.PROXY_CORE)
            found.append(wrk.Way(name, ("127.0.0.1", port), Path(), (pid,)))
        yield Rig((found[0], found[1]), tuple(backends))


def _start(stack: contextlib.ExitStack, directory: Path, name: str, resources: dict[str, Any], core: int) -> int:
    bootstrap, log = directory / f"{name}.json", directory / f"{name}.log"
    admin = envoys.write_bootstrap(bootstrap, resources)
    search = os.environ.get("HEADRACE_TEST_MODULE_DIR") or str(module_path().parent)
    command = ["env", f"{SEARCH_PATH}={search}", *envoys.command(bootstrap)]
    process = stack.enter_context(processes.running(command, log))
    processes.wait_for(admin, log)
    processes.pin(process.pid, core)
    return process.pid


def _listener(port: int, route: dict[str, Any], *filters: dict[str, Any]) -> dict[str, Any]:
    router = {"name": "router", "typed_config": {"@type": f"{_API}extensions.filters.http.router.v3.Router"}}
    routes = [{"match": {"prefix": "/"}, **route}]
    manager = {
        "@type": f"{_API}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "http_filters": [*filters, router],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
    }
    return {
        "name": f"listener-{port}",
        "address": _address(port),
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}],
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _backend(port: int) -> dict[str, Any]:
    whole = {"@type": f"{_API}extensions.filters.http.buffer.v3.Buffer", "max_request_bytes": LONGEST}
    json_type = {"header": {"key": "content-type", "value": "application/json"}}
    route = {
        "direct_response": {"status": 200, "body": {"inline_string": envoys.ANSWER}},
        "response_headers_to_add": [json_type],
    }
    listener = _listener(port, route, {"name": "buffer", "typed_config": whole})
    models = json.dumps({"object": "list", "data": [{"id": "constant", "object": "model"}]})
    host = listener["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]["virtual_hosts"][0]
    host["routes"].insert(
        0,
        {
            "match": {"path": "/v1/models"},
            "direct_response": {"status": 200, "body": {"inline_string": models}},
            "response_headers_to_add": [json_type],
        },
    )
    return listener


def _proxy(port: int, backends: list[int], *, module: bool, resend: bool = False) -> dict[str, Any]:
    endpoints = [{"endpoint": {"address": _address(backend)}} for backend in backends]
    cluster: dict[str, Any] = {
        "name": "models",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "models", "endpoints": [{"lb_endpoints": endpoints}]},
    }
    loaded = {"dynamic_module_config": {"name": MODULE_NAME, "do_not_close": True}}
    filters = []
    if module:
        kind = f"{_API}extensions.load_balancing_policies.dynamic_modules.v3.DynamicModulesLoadBalancerConfig"
        settings = {"@type": _STRING, "value": json.dumps({"pool": "bench/models", "resend": int(resend)})}
        value = {**loaded, "lb_policy_name": "pool", "lb_policy_config": settings}
        typed = {"@type": "type.googleapis.com/xds.type.v3.TypedStruct", "type_url": kind, "value": value}
        policy = {"name": "envoy.load_balancing_policies.dynamic_modules", "typed_config": typed}
        cluster["load_balancing_policy"] = {"policies": [{"typed_extension_config": policy}]}
        kind = f"{_API}extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter"
        filters.append({"name": "pool", "typed_config": {"@type": kind, **loaded, "filter_name": "pool"}})
        if resend:
            attempt = {"name": "attempt", "typed_config": {"@type": kind, **loaded, "filter_name": "attempt"}}
            codec = {"@type": f"{_API}extensions.filters.http.upstream_codec.v3.UpstreamCodec"}
            options = {
                "@type": f"{_API}extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http_protocol_options": {}},
                "http_filters": [attempt, {"name": "codec", "typed_config": codec}],
            }
            name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
            cluster["typed_extension_protocol_options"] = {name: options}
    route = {"route": {"cluster": "models", "timeout": "30s"}}
    return {"listeners": [_listener(port, route, *filters)], "clusters": [cluster]}


def publish(samples: dict[tuple[str, str, int], list[wrk.Sample]], arguments: argparse.Namespace) -> None:
    """Medians and spreads of both, and of the ratios of each round."""
    rows = []
    for size in SIZES:
        many = list(zip(samples["plain", size, 16], samples["module", size, 16], strict=True))
        one = list(zip(samples["plain", size, 1], samples["module", size, 1], strict=True))
        rows.append(
            [
                size,
                report.spread([plain.rate for plain, _ in many], 0),
                report.spread([module.rate for _, module in many], 0),
                report.spread([module.rate / plain.rate for plain, module in many]),
                f"{statistics.median(plain.p50 for plain, _ in one):.0f}",
                report.spread([module.p50 - plain.p50 for plain, module in one], 0),
                report.spread([module.cpu / plain.cpu for plain, module in many]),
                report.spread([module.cpu - plain.cpu for plain, module in many], 0),
            ]
        )
    head = ["body", "plain, requests/s", "module, requests/s", "throughput ratio", "plain p50 µs, 1 connection"]
    head += ["added p50 µs, 1 connection", "processor time ratio", "added processor time µs"]
    explanation = (__doc__ or "").split("\n\n")[2].replace("\n", " ")
    lines = [explanation, "", *report.table(head, rows), "", f"{arguments.rounds} rounds, medians (lowest to highest)."]
    report.publish("Cost of the native module", lines, write=arguments.write)


if __name__ == "__main__":
    main()
