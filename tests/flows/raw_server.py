"""A model server of flow tests that writes its answers byte for byte as a test says, over plain sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence


class RawServer:
    """Answers every request on a connection with the same pieces, a moment apart; keeps what it was sent."""

    def __init__(self, pieces: Sequence[bytes], pause: float = 0.002, read_slowly: float = 0.0) -> None:
        self.pieces = list(pieces)
        self.pause = pause
        self.read_slowly = read_slowly
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            received = b""
            while True:
                while not _is_whole(received):
                    time.sleep(self.read_slowly)
                    piece = connection.recv(256 * 1024)
                    if not piece:
                        return
                    received += piece
                self.requests.append(received)
                received = b""
                for piece in self.pieces:
                    connection.sendall(piece)
                    time.sleep(self.pause)

    def close(self) -> None:
        """Accept no more."""
        self._listener.close()


def _is_whole(received: bytes) -> bool:
    head, separator, body = received.partition(b"\r\n\r\n")
    if not separator:
        return False
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.split(b":")[1])
        if line.startswith(b"transfer-encoding:"):
            return b"\r\n0\r\n" in body[-200:] and body.endswith(b"\r\n\r\n")
    return True


@contextlib.contextmanager
def raw_server(pieces: Sequence[bytes], pause: float = 0.002, read_slowly: float = 0.0) -> Iterator[RawServer]:
    """A server, until the end."""
    server = RawServer(pieces, pause, read_slowly)
    try:
        yield server
    finally:
        server.close()


def chunked(pieces: Sequence[bytes], content_type: str = "text/event-stream", trailers: bytes = b"") -> list[bytes]:
    """The pieces as chunks of an answer, each of its own."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n"
    return [head.encode(), *(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces), b"0\r\n", trailers + b"\r\n"]
