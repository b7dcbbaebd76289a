"""llama.cpp's own server with one of our small models: a real engine for the examples.

Called by `headrace model-server --engine llamacpp`. Needs the `models` extra (xllamacpp, gguf, numpy). llama.cpp runs
in a child process, because stopping it in place may take half a minute where a stream is open.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import multiprocessing
import os
import select
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.process import BaseProcess
from pathlib import Path

_START_SECONDS = 60.0
_IDLE_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


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
        # A signal handler must not set a threading.Event: it may have interrupted one that holds the event's lock.
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def stop(self) -> None:
        self._change(stopped=True)

    def fall_sick(self) -> None:
        self._change(sick=True)

    def recover(self) -> None:
        self._change(sick=False)

    def _change(self, *, stopped: bool = False, sick: bool = False) -> None:
        self._stopped, self._sick = self._stopped or stopped, sick
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake, b".")

    def run(self, say: Callable[[str], None]) -> None:
        """Serve; returns after `stop`. `say` gets a line at each change. Runs in the main thread."""
        # A signal that comes just before `select` begins must end it, too: the interpreter itself writes to the pipe.
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        place = f"http://{self._settings.host}:{self._settings.port}"
        while not self._stopped:
            if self._sick:
                with _sick_server(self._settings.host, self._settings.port):
                    say(f"sick: answering 500 on {place}")
                    self._wait(sick=True)
                continue
            server = _start(self._settings)
            try:
                if not self._wait_until_healthy(server) and not self._stopped:
                    raise OSError(f"llama.cpp did not come up on {place}: see its output above")
                say(f"llama.cpp serves {self._settings.model} on {place}")
                self._wait(sick=False, server=server)
                if not self._stopped:
                    self._wait_until_idle()
            finally:
                server.kill()
                server.join()

    def _wait(self, *, sick: bool, server: BaseProcess | None = None) -> None:
        """Wait for as long as nothing changes; OSError where the server ends meanwhile."""
        ended = [server.sentinel] if server is not None else []
        while self._still(sick):
            ready, _, _ = select.select([self._woken, *ended], [], [])
            if self._woken in ready:
                os.read(self._woken, 4096)
            elif server is not None:
                raise OSError(f"llama.cpp ended with code {server.exitcode}: see its output above")

    def _still(self, sick: bool) -> bool:
        return self._sick is sick and not self._stopped

    def _wait_until_idle(self) -> None:
        """Find a moment without a request, for the streams of a server that is stopped are cut."""
        deadline = time.monotonic() + _IDLE_SECONDS
        address = f"http://{self._settings.host}:{self._settings.port}/slots"
        while time.monotonic() < deadline and not self._stopped:
            with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(address, timeout=1.0) as answer:
                if not any(slot.get("is_processing") for slot in json.load(answer)):
                    return
            time.sleep(0.001)

    def _wait_until_healthy(self, server: BaseProcess) -> bool:
        """Whether /health answers well in time (polls; ends early when asked to stop)."""
        deadline = time.monotonic() + _START_SECONDS
        address = f"http://{self._settings.host}:{self._settings.port}/health"
        while time.monotonic() < deadline and server.is_alive() and not self._stopped:
            try:
                with urllib.request.urlopen(address, timeout=1.0) as answer:
                    if json.load(answer).get("status") == "ok":
                        return True
            except (OSError, ValueError):
                time.sleep(0.02)
        return False


def _start(settings: LlamaSettings) -> BaseProcess:
    """A process that serves until it is killed."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise EngineMissing("llama.cpp is not installed: pip install 'headrace[models]'")
    process = multiprocessing.get_context("fork").Process(target=_serve, args=(settings,), daemon=True)
    process.start()
    return process


def _serve(settings: LlamaSettings) -> None:
    """The child process: llama.cpp, which serves from threads of its own. It dies with its parent."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    import xllamacpp

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
    server = xllamacpp.Server(parameters)
    while server is not None:
        signal.pause()


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
