"""Questions for names outside the mesh: what is read, what is refused, what is passed on. The sockets are real."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.agent.netns import names
from headrace.agent.netns.names import QuestionError, is_own, names_forwarder, read_question, refusal

ADDRESS = "127.94.3.1"


def packet(name: str, kind: int = 1, identity: int = 77) -> bytes:
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split(".") if label)
    return struct.pack("!6H", identity, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)


def test_a_question_is_read_and_refused() -> None:
    asked = packet("Model.Example", 28)
    question = read_question(asked + b"more")
    assert question.name == "model.example"
    answer = refusal(asked + b"more", question, 3)
    assert answer[:2] == asked[:2]
    assert answer[3] & 15 == 3
    assert answer[12:] == asked[12:]


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"short",
        packet("a.b")[:-3],
        packet("a.b")[:14],
        struct.pack("!6H", 1, 0x8180, 1, 0, 0, 0) + b"\1a\0\0\1\0\1",
        struct.pack("!6H", 1, 0x0100, 2, 0, 0, 0) + b"\1a\0\0\1\0\1",
        struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1",
        struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + b"\x3fabc" * 90,
    ],
)
def test_what_is_no_question_is_not_read(wrong: bytes) -> None:
    with pytest.raises(QuestionError):
        read_question(wrong)


@given(st.binary(max_size=600))
def test_any_bytes_are_a_question_or_none(data: bytes) -> None:
    with contextlib.suppress(QuestionError):
        question = read_question(data)
        assert 12 < question.end <= len(data)
        assert len(question.name) <= 255 + 64
        assert len(refusal(data, question, 2)) == question.end


def test_names_of_the_mesh_are_its_own() -> None:
    assert is_own("nobody.default.svc.cluster.local")
    assert is_own("chat.default.inference.local")
    assert not is_own("notcluster.local")
    assert not is_own("api.example")


class Server(asyncio.DatagramProtocol):
    """A name server that answers every question with the same packet, as an answer; `silent` ones never do."""

    def __init__(self, *, silent: bool = False) -> None:
        self.asked: list[bytes] = []
        self._silent = silent

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked.append(data)
        if not self._silent:
            self._transport.sendto(b"\xff\xff\x80" + data[3:], addr)  # type: ignore[attr-defined]
            self._transport.sendto(data[:2] + b"\x81" + data[3:] + b"answer", addr)  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def forwarding(monkeypatch: pytest.MonkeyPatch, *servers: Server) -> AsyncIterator[None]:
    """A forwarder to these servers, which listen on an ordinary port."""
    loop = asyncio.get_running_loop()
    addresses = []
    async with contextlib.AsyncExitStack() as stack:
        for number, server in enumerate(servers):
            where = (f"127.94.3.{number + 10}", 15953)
            transport, _ = await loop.create_datagram_endpoint(lambda server=server: server, local_addr=where)
            stack.callback(transport.close)
            addresses.append(where[0])
        monkeypatch.setattr(names, "_NAME_PORT", 15953)
        monkeypatch.setattr(names, "_SECONDS", 0.3)
        await stack.enter_async_context(names_forwarder(ADDRESS, lambda: addresses))
        yield


async def ask(data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        await loop.sock_connect(asking, (ADDRESS, names.DNS_PORT))
        await loop.sock_sendall(asking, data)
        async with asyncio.timeout(10):
            return await loop.sock_recv(asking, 4096)


async def test_an_answer_comes_back_as_it_is_and_strange_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    async with forwarding(monkeypatch, server):
        answer = await ask(packet("api.example"))
    assert answer[:2] == packet("api.example")[:2]
    assert answer.endswith(b"answer")


async def test_the_next_server_is_asked_where_one_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    silent, answering = Server(silent=True), Server()
    async with forwarding(monkeypatch, silent, answering):
        assert (await ask(packet("api.example"))).endswith(b"answer")
    assert silent.asked and answering.asked


async def test_no_server_that_answers_is_a_failure_not_a_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    async with forwarding(monkeypatch, Server(silent=True)):
        assert (await ask(packet("api.example")))[3] & 15 == 2


async def test_names_of_the_mesh_are_never_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    async with forwarding(monkeypatch, server):
        assert (await ask(packet("nobody.default.svc.cluster.local")))[3] & 15 == 3
    assert not server.asked
