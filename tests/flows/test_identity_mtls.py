"""Certificates of ours in real Envoys: who gets through, who does not, and rotation under load."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from tests.flows.identity_rig import CLIENT, SERVER, Rig, SecretServer, Trust, running_rig

from headrace.identity.rotation import WorkloadCertificate

ROTATIONS = 30


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with running_rig() as made:
        yield made


async def ask(rig: Rig, path: str) -> tuple[int, str, dict[str, str]]:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
        session.get(rig.front + path) as response,
    ):
        return response.status, await response.text(), dict(response.headers)


async def test_two_workloads_of_the_mesh_talk_with_mutual_tls(rig: Rig) -> None:
    status, body, headers = await ask(rig, "/right")
    assert (status, body) == (200, "through")
    assert headers["x-uri"] == CLIENT.uri
    assert headers["x-tls"] == "TLSv1.3"
    recorded = rig.trust.ledger.inspect(headers["x-serial"])
    assert recorded is not None
    assert recorded.identity == CLIENT.uri


def test_a_plaintext_client_gets_no_answer(rig: Rig) -> None:
    with socket.create_connection(("127.0.0.1", rig.server_port), 5) as plain:
        plain.settimeout(5)
        plain.sendall(b"GET / HTTP/1.1\r\nhost: server\r\n\r\n")
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := plain.recv(4096):
                received += chunk
    assert b"HTTP/" not in received
    assert b"through" not in received


async def test_a_client_of_another_root_is_refused(rig: Rig) -> None:
    before = rig.server.stats(r"listener\.door\.ssl\.fail_verify_error").popitem()[1]
    status, body, _ = await ask(rig, "/foreign")
    assert status == 503
    assert "through" not in body
    assert rig.server.stats(r"listener\.door\.ssl\.fail_verify_error").popitem()[1] > before


async def test_a_server_with_another_name_is_refused(rig: Rig) -> None:
    status, body, _ = await ask(rig, "/wrong-san")
    assert status == 503
    assert "through" not in body
    assert rig.client.stats(r"cluster\.wrong-san\.ssl\.fail_verify_san").popitem()[1] > 0


def exchange(rig: Rig, context: ssl.SSLContext) -> bytes:
    """What a Python TLS client receives for one request."""
    with (
        socket.create_connection(("127.0.0.1", rig.server_port), 5) as plain,
        context.wrap_socket(plain) as secured,
    ):
        secured.sendall(b"GET / HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n")
        received = b""
        while chunk := secured.recv(4096):
            received += chunk
        return received


def test_a_tls_client_needs_a_certificate_of_ours_and_tls_1_3(rig: Rig, tmp_path: Path) -> None:
    own = rig.trust.pair(CLIENT)
    assert b"through" in exchange(rig, rig.context(own))
    strange = Trust(tmp_path / "strange-ca")
    for context in (
        rig.context(None),
        rig.context(strange.pair(CLIENT)),
        rig.context(own, maximum_version=ssl.TLSVersion.TLSv1_2),
    ):
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            exchange(rig, context)


async def test_thirty_rotations_of_both_sides_fail_no_request(rig: Rig) -> None:
    """Every rotation is seen in force on both sides, by new handshakes under load, before the next one starts."""
    newest: dict[str, str] = {}
    seen: set[str] = set()
    failures: list[str] = []
    served = 0
    done = asyncio.Event()

    def install(secrets: SecretServer, side: str) -> Callable[[WorkloadCertificate], None]:
        def put(certificate: WorkloadCertificate) -> None:
            secrets.put_pair("default", certificate)
            newest[side] = certificate.serial

        return put

    async def load(session: aiohttp.ClientSession) -> None:
        nonlocal served
        while not done.is_set():
            async with session.get(rig.front + "/right") as response:
                body = await response.text()
                served += 1
                if response.status != 200 or body != "through":
                    failures.append(f"{response.status} {body[:200]}")
                seen.add(response.headers.get("x-serial", "").lstrip("0"))

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.01)

    renewers = [
        rig.trust.renewer(CLIENT, install(rig.client_secrets, "client")),
        rig.trust.renewer(SERVER, install(rig.server_secrets, "server")),
    ]
    probe = rig.context(rig.trust.pair(CLIENT))
    session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
    async with session, asyncio.TaskGroup() as group:
        running = [group.create_task(renewer.run()) for renewer in renewers]
        running += [group.create_task(load(session)) for _ in range(4)]
        await until(lambda: len(newest) == 2)
        for _ in range(ROTATIONS):
            before = dict(newest)
            for renewer in renewers:
                renewer.renew_now()
            await until(lambda before=before: all(newest[side] != before[side] for side in newest))
            await until(lambda: newest["client"] in seen)
            async with asyncio.timeout(10):
                while await asyncio.to_thread(rig.served_serial, probe) != newest["server"]:
                    await asyncio.sleep(0.01)
        done.set()
        for task in running[:2]:
            task.cancel()
    assert failures == []
    assert len(seen) >= ROTATIONS
    assert served > 10 * ROTATIONS
    entries = rig.trust.ledger.entries(identity=CLIENT.uri)
    assert {entry.serial for entry in entries} >= seen - {""}
    print(f"{served} requests, {len(failures)} failed, {ROTATIONS} rotations of both sides")
