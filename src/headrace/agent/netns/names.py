"""Answers for names outside the mesh: passes questions on to this machine's own name servers, byte by byte.

Run by `app.agent_host` at the mesh's own address. The proxies answer for services by themselves and send only what they
do not know here, so that nothing inside the mesh depends on the agent. Questions below the mesh's own domain are never
passed on: who does not know them inside need not know them outside.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import cast

from headrace.agent.netns.links import name_servers
from headrace.agent.netns.plan import DNS_PORT
from headrace.model.inference import POOL_DOMAIN
from headrace.model.names import CLUSTER_DOMAIN

_SECONDS = 1.5
_SERVERS = 3
"""How long each of how many name servers is waited for: less than an application waits (5 s, resolver(5))."""
_NAME_PORT = 53
_PENDING = 512
_LARGEST = 4096
_HEADER = struct.Struct("!6H")
_RESPONSE, _NO_SUCH_NAME, _FAILED = 0x8080, 3, 2
_LABEL_LIMIT = 63
_NAME_LIMIT = 255
_OWN = (CLUSTER_DOMAIN, POOL_DOMAIN)


class QuestionError(ValueError):
    """A packet that is no question."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a packet asks: the name in lower case, and where the question ends in the packet."""

    name: str
    end: int


def read_question(packet: bytes) -> Question:
    """The one question of a packet; QuestionError where there is none (RFC 1035, section 4.1)."""
    if len(packet) < _HEADER.size:
        raise QuestionError("shorter than a header")
    _, flags, count, *_ = _HEADER.unpack_from(packet)
    if flags & 0x8000 or count != 1:
        raise QuestionError("not one question")
    labels: list[bytes] = []
    at = _HEADER.size
    while at < len(packet):
        size = packet[at]
        if size == 0 and at + 5 <= len(packet):
            return Question(b".".join(labels).decode("ascii", "replace").lower(), at + 5)
        if not size or size > _LABEL_LIMIT or at + 1 + size > len(packet) or at - _HEADER.size > _NAME_LIMIT:
            break
        labels.append(packet[at + 1 : at + 1 + size])
        at += 1 + size
    raise QuestionError("the name does not end")


def refusal(packet: bytes, question: Question, code: int) -> bytes:
    """An answer without records to a packet's question: the same id and question, and this code."""
    identity, flags, *_ = _HEADER.unpack_from(packet)
    head = _HEADER.pack(identity, _RESPONSE | (flags & 0x7900) | code, 1, 0, 0, 0)
    return head + packet[_HEADER.size : question.end]


def is_own(name: str) -> bool:
    """Whether nobody outside can know this name."""
    return any(name == domain or name.endswith(f".{domain}") for domain in _OWN)


class Forwarder(asyncio.DatagramProtocol):
    """One socket that takes questions. `servers` gives the name servers of the moment."""

    def __init__(self, servers: Callable[[], Sequence[str]]) -> None:
        self._servers = servers
        self._transport: asyncio.DatagramTransport | None = None
        self._pending: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if len(self._pending) >= _PENDING:
            return
        try:
            question = read_question(data)
        except QuestionError:
            return
        task = asyncio.get_running_loop().create_task(self._answer(data, question, addr))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def close(self) -> None:
        """Give up what is under way."""
        if self._transport is not None:
            self._transport.close()
        for task in self._pending:
            task.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)

    async def _answer(self, packet: bytes, question: Question, client: tuple[str, int]) -> None:
        answer = refusal(packet, question, _NO_SUCH_NAME)
        if not is_own(question.name):
            answer = await self._ask(packet) or refusal(packet, question, _FAILED)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(answer, client)

    async def _ask(self, question: bytes) -> bytes:
        """The first answer of a name server, in their order; empty where none answers."""
        for server in self._servers()[:_SERVERS]:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_SECONDS):
                    return await _exchange(server, question)
        return b""


async def _exchange(server: str, question: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        await loop.sock_connect(asking, (server, _NAME_PORT))
        await loop.sock_sendall(asking, question)
        while True:
            answer = await loop.sock_recv(asking, _LARGEST)
            if len(answer) >= _HEADER.size and answer[:2] == question[:2] and answer[2] & 0x80:
                return answer


@contextlib.asynccontextmanager
async def names_forwarder(address: str, servers: Callable[[], Sequence[str]] = name_servers) -> AsyncIterator[None]:
    """Answer questions at the address for as long as the context lasts."""
    loop = asyncio.get_running_loop()
    _, forwarder = await loop.create_datagram_endpoint(lambda: Forwarder(servers), local_addr=(address, DNS_PORT))
    try:
        yield
    finally:
        await forwarder.close()
