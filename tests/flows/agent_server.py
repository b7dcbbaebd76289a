"""The application of the agent's flow tests: a small HTTP server that tells what it was started with.

`/` answers its facts as JSON, `/stream?seconds=N` streams a line every 50 ms, `/health` answers 200 until `/sick` was
asked for. Options: `--crash N` exits with code 3 after N seconds, `--slow N` listens after N seconds, `--name TEXT` is
told, `--fork` leaves a daemon in a session of its own, `--stubborn` ignores SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

SICK = threading.Event()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536
    name = ""

    def do_GET(self) -> None:
        url = urlparse(self.path)
        if url.path == "/stream":
            self.stream(float(parse_qs(url.query)["seconds"][0]))
        elif url.path == "/sick":
            SICK.set()
            self.answer(200, {})
        elif url.path == "/health":
            self.answer(500 if SICK.is_set() else 200, {"probe": self.headers.get("x-probe", "")})
        else:
            self.answer(200, {"pid": os.getpid(), "name": self.name, "environment": dict(os.environ), "argv": sys.argv})

    def answer(self, status: int, facts: dict[str, object]) -> None:
        body = json.dumps(facts).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, seconds: float) -> None:
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.chunk(f"{os.getpid()}\n".encode())
            time.sleep(0.05)
        self.chunk(b"done\n")
        self.chunk(b"")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        print(format % args, flush=True)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--crash", type=float)
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--name", default="")
    parser.add_argument("--fork", action="store_true")
    parser.add_argument("--stubborn", action="store_true")
    options, _ = parser.parse_known_args()
    if options.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.fork and os.fork() == 0:
        os.setsid()
        time.sleep(300)
    if options.crash is not None:
        threading.Timer(options.crash, os._exit, (3,)).start()
    time.sleep(options.slow)
    Handler.name = options.name
    Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()


main()
