"""Gateways, secrets and meshes side by side, with real Envoys."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from pathlib import Path

import aiohttp
from cryptography import x509
from tests.flows.agent_rig import agent_rig, replica, until

from headrace.wire import agent_v1_pb2 as wire


def gateway(*ports: int) -> wire.Replica:
    return replica(
        "edge-0",
        role="gateway",
        command=[],
        ports=[wire.Port(number=port, name="http", protocol="HTTP") for port in ports],
        bind="127.0.0.1",
    )


async def test_a_gateway_opens_its_ports_and_others_where_it_may_not_and_follows_changes() -> None:
    async with agent_rig() as rig:
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            rig.control.assign(gateway(18431, port))
            report = await rig.control.ready("default/edge-0")
        ports = {item.port: item.local for item in report.gateway_ports}
        assert ports[18431] == 18431
        assert ports[port] != port
        for number, local in ports.items():
            async with rig.session.get(f"http://127.0.0.1:{local}/") as response:
                assert await response.text() == f"gateway {local}", number
        assert (report.app_pid, bool(report.proxy_pid)) == (0, True)
        rig.control.assign(gateway(18431, 18432))
        await until(
            lambda: [item.port for item in rig.control.report("default/edge-0").gateway_ports] == [18431, 18432], "x"
        )
        assert rig.control.report("default/edge-0").proxy_pid == report.proxy_pid

        async def answers() -> bool:
            with contextlib.suppress(aiohttp.ClientError):
                async with rig.session.get("http://127.0.0.1:18432/") as response:
                    return response.status == 200
            return False

        await until(answers, "the new port")
        assert await rig.stop() == 0
        assert rig.processes() == []


async def test_envoy_gets_its_certificate_over_the_replicas_socket() -> None:
    async with agent_rig(tls=True) as rig:
        rig.control.assign(replica())
        report = await rig.control.ready()
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

        def presented() -> x509.Certificate:
            with socket.create_connection((report.address, 8000), 5) as plain, context.wrap_socket(plain) as secure:
                certificate = secure.getpeercert(binary_form=True)
                assert certificate is not None
                return x509.load_der_x509_certificate(certificate)

        leaf = await asyncio.to_thread(presented)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
            "spiffe://cluster.local/ns/default/sa/default"
        ]
        assert int(report.certificate_serial, 16) == leaf.serial_number
        assert abs(report.certificate_not_after_unix_ms / 1000 - leaf.not_valid_after_utc.timestamp()) < 2


async def test_a_refused_certificate_is_told_and_asked_for_again() -> None:
    async with agent_rig() as rig:
        rig.control.refuse_signing = True
        rig.control.assign(replica())
        await until(lambda: "no certificate: " in rig.control.report().detail, "told")
        assert "not today" in rig.control.report().detail
        rig.control.refuse_signing = False
        await rig.control.ready()


async def test_two_meshes_on_one_host_do_not_collide() -> None:
    async with agent_rig() as one, agent_rig() as two:
        for rig in (one, two):
            rig.control.assign(replica())
        first, second = await one.control.ready(), await two.control.ready()
        assert first.address != second.address
        assert (await one.get())[1]["pid"] == first.app_pid
        assert (await two.get())[1]["pid"] == second.app_pid
        await one.stop()
        assert (await two.get())[0] == 200


async def test_a_port_taken_on_every_address_is_explained_and_tried_again() -> None:
    with socket.socket() as wildcard:
        wildcard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        wildcard.bind(("0.0.0.0", 18433))
        wildcard.listen()
        async with agent_rig() as rig:
            rig.control.assign(replica(ports=[wire.Port(number=18433, name="http")]))
            await until(lambda: rig.control.state() == "failed", "failed")
            assert "taken by other processes" in rig.control.report().detail
            wildcard.close()
            await rig.control.ready()


async def test_envoys_share_nothing_with_other_processes_but_their_own_sockets() -> None:
    async with agent_rig() as rig:
        rig.control.assign(replica())
        report = await rig.control.ready()
        inodes = {os.readlink(path) for path in Path(f"/proc/{report.proxy_pid}/fd").iterdir()}
        lines = Path("/proc/net/unix").read_text().splitlines()
        names = {line.split()[7] for line in lines if f"socket:[{line.split()[6]}]" in inodes and len(line.split()) > 7}
        assert names == {str(rig.places.admin_socket("default/chat-0"))}, "no hot restart, no abstract socket"
        command = Path(f"/proc/{report.proxy_pid}/cmdline").read_bytes().split(b"\0")
        assert b"--disable-hot-restart" in command
        assert command[command.index(b"--concurrency") + 1] == b"1"
