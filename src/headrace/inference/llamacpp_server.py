"""llama.cpp's own server in this process, with one of our small models: a real engine for the examples.

Called by `headrace model-server --engine llamacpp`. Needs the `models` extra (xllamacpp, gguf, numpy).
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_START_SECONDS = 60.0


class EngineMissing(Exception):
    """The libraries that the engine needs are not installed; the message says how to get them."""


@dataclass(frozen=True, slots=True)
class LlamaSettings:
    """`slots` requests run at once, each with `context` tokens; `threads` cores compute; `model` is the served name."""

    path: Path
    model: str
    host: str = "127.0.0.1"
    port: int = 8080
    slots: int = 2
    context: int = 2048
    threads: int = 1


class LlamaServer:
    """llama.cpp serving until `stop`; from `fall_sick` to `recover` every request but /health is answered with 500
    by a stand-in on the same port, as a server with a broken GPU would. The three may be called from signal handlers.

    `run` raises EngineMissing without xllamacpp and OSError where llama.cpp does not come up on its port.
    """

    def __init__(self, settings: LlamaSettings) -> None:
        self._settings = settings
        self._stopped = False
        self._sick = False
        self._woken = threading.Event()

    def stop(self) -> None:
        self._stopped = True
        self._woken.set()

    def fall_sick(self) -> None:
        self._sick = True
        self._woken.set()

    def recover(self) -> None:
        self._sick = False
        self._woken.set()

    def run(self, say: Callable[[str], None]) -> None:
        """Serve; returns after `stop`. `say` gets a line at each change."""
        place = f"http://{self._settings.host}:{self._settings.port}"
        while not self._stopped:
            self._woken.clear()
            if self._sick:
                with _sick_server(self._settings.host, self._settings.port):
                    say(f"sick: answering 500 on {place}")
                    self._wait(sick=True)
                continue
            server = _start(self._settings)
            if not self._wait_until_healthy() and not self._stopped:
                raise OSError(f"llama.cpp did not come up on {place}: see its output above")
            say(f"llama.cpp serves {self._settings.model} on {place}")
            self._wait(sick=False)
            del server

    def _wait(self, *, sick: bool) -> None:
        """Wait for as long as nothing changes."""
        while not self._stopped and self._sick is sick:
            self._woken.wait()
            self._woken.clear()

    def _wait_until_healthy(self) -> bool:
        """Whether /health answers well in time (polls; ends early when asked to stop)."""
        deadline = time.monotonic() + _START_SECONDS
        address = f"http://{self._settings.host}:{self._settings.port}/health"
        while time.monotonic() < deadline and not self._stopped:
            try:
                with urllib.request.urlopen(address, timeout=1.0) as answer:
                    if json.load(answer).get("status") == "ok":
                        return True
            except (OSError, ValueError):
                time.sleep(0.02)
        return False


def _start(settings: LlamaSettings) -> Any:
    """llama.cpp's server object; it serves from threads of its own until it is deleted."""
    try:
        import xllamacpp
    except ImportError:
        raise EngineMissing("llama.cpp is not installed: pip install 'headrace[models]'") from None
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(settings.path)
    parameters.model_alias = {settings.model}
    parameters.hostnames = [settings.host]
    parameters.port = settings.port
    parameters.n_parallel = settings.slots
    parameters.n_ctx = settings.context * settings.slots
    parameters.cpuparams.n_threads = settings.threads
    parameters.cpuparams_batch.n_threads = settings.threads
    parameters.endpoint_metrics = True
    parameters.endpoint_slots = True
    parameters.n_gpu_layers = 0
    parameters.fit_params = False
    parameters.warmup = False
    parameters.ui = False
    return xllamacpp.Server(parameters)


class _SickHandler(BaseHTTPRequestHandler):
    """500 to everything but /health. Each connection ends with its answer, so that none outlives the sickness."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        while length > 0:
            length -= len(self.rfile.read(min(length, 65536)) or b"x" * length)
        healthy = self.path == "/health"
        body = b'{"status":"ok"}' if healthy else b'{"error":{"code":500,"message":"a fault was asked for"}}'
        self.send_response(200 if healthy else 500)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def _sick_server(host: str, port: int) -> Iterator[None]:
    """Meanwhile the stand-in answers on the port, which llama.cpp has just left."""
    server = ThreadingHTTPServer((host, port), _SickHandler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
