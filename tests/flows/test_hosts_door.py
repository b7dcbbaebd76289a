"""The door for other hosts, over real TLS and gRPC: joining by a token, and what a joined agent may and may not ask."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from tests.flows.agent_rig import until

from headrace.app.control_plane.agents import AgentService
from headrace.app.control_plane.answers import Refused
from headrace.app.control_plane.assignments import PlannedReplica
from headrace.app.control_plane.hosts import HostBook
from headrace.app.control_plane.hosts_door import HostsDoor, TokenDesk, new_tokens
from headrace.app.control_plane.process import agent_handlers
from headrace.app.control_plane.trust import TrustKeeper
from headrace.app.membership import Membership, member
from headrace.app.settings import MeshSettings
from headrace.envoy.xds.hub import Hub
from headrace.floor.cell import LatestValue
from headrace.floor.clock import SystemClock
from headrace.floor.places import Places, StateError
from headrace.identity.attest import check_request
from headrace.identity.hosts import CONTROL_PLANE_NAME, JoinToken, agent_identity, control_plane_identity
from headrace.identity.issuer import IssuedCertificate, Issuer
from headrace.identity.keys import PrivateKey
from headrace.identity.ledger import Ledger
from headrace.identity.roots import Roots
from headrace.identity.trust import ListRules, Trust
from headrace.model.identity import Identity
from headrace.model.workload import WorkloadPort, WorkloadRole
from headrace.wire import agent_v1_pb2 as wire
from headrace.wire import agent_v1_pb2_grpc

PART = "istio-system/false-0"
OURS, THEIRS, LOCAL = "default/llm-0", "default/llm-1", "default/llm-2"


class NoResources:
    """No proxy gets anything here."""

    def resources_for(self, proxy: str) -> None:
        return None


def planned(name: str, host: str, account: str = "model") -> PlannedReplica:
    identity = Identity("cluster.local", name.partition("/")[0], account)
    ports = (WorkloadPort(8000, "http"),)
    return PlannedReplica(
        name, identity.namespace, "llm", 0, WorkloadRole.SIDECAR, identity, {}, ports, None, host=host
    )


@dataclass
class Door:
    """A control plane's door, open on 127.0.0.1, and hosts that join by it."""

    directory: Path
    service: AgentService
    hosts: HostBook
    trust: Trust
    keeper: TrustKeeper
    opened: HostsDoor
    desk: TokenDesk
    address: str

    def token(self, host: str = "b", life: float = 600.0) -> str:
        return str(self.desk.create(host, life)["token"])

    async def join(self, token: str, directory: str = "member", address: str = "") -> Membership:
        places = Places.open(self.directory / directory)
        return await asyncio.to_thread(member, places, address or self.address, token, SystemClock())

    def certified(self, identity: Identity, dns: str = "", trust: Trust | None = None) -> grpc.aio.Channel:
        """A channel with a certificate of any identity."""
        key = PrivateKey.generate()
        leaf = (trust or self.trust).sign(check_request(key.bare_csr(), identity), identity, 600.0, dns)
        port = int(self.address.rpartition(":")[2]) + 1
        return grpc.aio.secure_channel(
            f"ipv4:127.0.0.1:{port}",
            grpc.ssl_channel_credentials(self.trust.bundle_pem.encode(), key.reveal_pem(), leaf.chain_pem.encode()),
            options=[("grpc.ssl_target_name_override", CONTROL_PLANE_NAME)],
        )


def free_ports() -> int:
    """The first of two neighbouring free ports."""
    for port in range(17_100, 19_000, 2):
        with socket.socket() as one, socket.socket() as two:
            try:
                one.bind(("127.0.0.1", port))
                two.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise AssertionError("no two neighbouring ports are free")


def new_trust(directory: Path) -> Trust:
    directory.mkdir()
    clock = SystemClock()
    return Trust(
        Roots.open(directory / "ca", "cluster.local", clock),
        Ledger.open(directory / "ledger.sqlite"),
        clock,
        ListRules(),
    )


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    clock, hosts, trust = SystemClock(), HostBook(), new_trust(tmp_path / "cp")
    plan = LatestValue(
        (planned(OURS, "b"), planned(THEIRS, "c"), planned(LOCAL, ""), planned(PART, "b", "headrace-agent_c"))
    )
    hosts.planned(plan.value, "127.0.0.1")
    service = AgentService(hosts, plan, Hub(NoResources(), clock), MeshSettings())
    service.publishing.set()
    keeper = TrustKeeper(trust, hosts, plan, clock, lambda: None)
    service.issuer = Issuer(service, trust, trust.ledger, clock, 600.0)
    service.trust = keeper.states
    opened = HostsDoor(trust, trust.ledger, "cluster.local", clock, 600.0)
    service.host_certificate = opened.issue
    tokens = new_tokens(tmp_path / "cp", clock)
    address = f"127.0.0.1:{free_ports()}"
    async with AsyncExitStack() as stack:
        await opened.open(stack, address, tokens, agent_handlers(service), tmp_path / "cp")
        desk = TokenDesk(opened, tokens, address, "local")
        yield Door(tmp_path, service, hosts, trust, keeper, opened, desk, address)


def stub(channel: grpc.aio.Channel) -> Any:
    return agent_v1_pb2_grpc.ControlPlaneStub(channel)  # type: ignore[arg-type]


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call, 20.0)
    return caught.value.code(), caught.value.details() or ""


async def test_a_host_joins_by_a_token_and_comes_back_without_one(door: Door) -> None:
    token = door.token()
    joined = await door.join(token)
    assert joined.host == "b"
    kept = door.directory / "member" / "agent" / "host.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert JoinToken.parse(token).secret.hex() not in (door.directory / "cp" / "join-tokens.json").read_text()
    assert (await door.join("")).host == "b"
    assert token not in repr(JoinToken.parse(token)) and "BEGIN" not in repr(joined._kept)


async def test_bad_tokens_are_refused_each_with_one_line(door: Door) -> None:
    used, gone = door.token(), door.token(life=1.0)
    await door.join(used)
    secret, pin = used.split(".")[1:]
    await asyncio.sleep(1.1)
    cases = {
        used: "was used already",
        gone: "has expired",
        f"hrj1.{'A' * 43}.{pin}": "is unknown here",
        f"hrj1.{secret}.{'0' * 64}": "does not have the root that the token pins",
        "hrj1.rubbish": "is no join token",
        "": "needs a join token",
    }
    for token, words in cases.items():
        with pytest.raises(StateError, match=words) as caught:
            await door.join(token, "another")
        assert "\n" not in str(caught.value)
    assert not (door.directory / "another" / "agent" / "host.json").exists()


async def test_nothing_secret_is_sent_to_a_server_without_the_control_planes_certificate(
    door: Door, tmp_path: Path
) -> None:
    """A server that shows the right root, but proves itself by a workload's certificate of that very root."""
    identity, key = Identity("cluster.local", "default", "thief"), PrivateKey.generate()
    leaf = door.trust.sign(check_request(key.bare_csr(), identity), identity, 600.0)
    (tmp_path / "thief.pem").write_bytes(key.reveal_pem() + leaf.chain_pem.encode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "thief.pem")
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(4096))
        body = door.trust.bundle_pem.encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        token = door.token()
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(StateError, match="no certificate of the root that the token pins"):
            await door.join(token, address=address)
    assert len(heard) == 1 and heard[0].startswith(b"GET /v1/roots ")
    assert (await door.join(token)).host == "b"


async def test_an_agent_speaks_for_its_own_host_whatever_it_claims(door: Door) -> None:
    async with (await door.join(door.token())).channel(()) as channel:
        await stub(channel).Register(wire.RegisterRequest(host="local", version="1"), timeout=10)
        assert list(door.hosts.hosts) == ["b"]
        call = stub(channel).Assignments(wire.AssignmentsRequest(host="c"))
        given = await asyncio.wait_for(call.read(), 10)
        assert [replica.id for replica in given.replicas] == [OURS, PART]
        call.cancel()


async def test_reports_of_others_replicas_and_of_unreachable_addresses_are_not_heard(door: Door) -> None:
    def report(name: str, address: str) -> wire.ReplicaReport:
        return wire.ReplicaReport(id=name, address=address, state="ready", started_unix_ms=1)

    async with (await door.join(door.token())).channel(()) as channel:
        call = stub(channel).Report()
        mine = [report(OURS, "10.80.2.1"), report(THEIRS, "10.80.2.2"), report(LOCAL, "10.80.2.3")]
        await call.write(wire.HostReport(host="c", sequence=1, replicas=[*mine, report("default/none-0", "10.1.1.1")]))
        assert (await asyncio.wait_for(call.read(), 10)).sequence == 1
        assert list(door.hosts.observed()) == [OURS] and door.hosts.host_of(OURS) == "b"
        for wrong in (
            wire.ReplicaReport(id=OURS, address="10.80.2.1", state="better than ready"),
            wire.ReplicaReport(id=OURS, address="10.80.2.1", state="ready", capture="netns"),
            wire.ReplicaReport(id=OURS, address="10.80.2.1", state="ready", outbound_port=1 << 20),
            wire.ReplicaReport(id=OURS, address="10.80.2.1", state="ready", proxy_credentials="x" * 10_000),
        ):
            await call.write(wire.HostReport(sequence=3, replicas=[wrong]))
            await asyncio.wait_for(call.read(), 10)
            assert not door.hosts.observed(), wrong
        for address in ("127.0.0.1", "0.0.0.0", "::1", "224.0.0.1", "x"):
            await call.write(wire.HostReport(sequence=2, replicas=[report(OURS, address)]))
            await asyncio.wait_for(call.read(), 10)
            assert not door.hosts.observed(), address
        call.cancel()


async def test_certificates_configuration_and_withdrawal_only_for_own_replicas(door: Door) -> None:
    async with (await door.join(door.token())).channel(()) as channel:
        agent = stub(channel)
        csr = PrivateKey.generate().bare_csr()
        signed = await agent.SignCertificate(wire.SignCertificateRequest(replica_id=OURS, csr_der=csr), timeout=10)
        assert "BEGIN CERTIFICATE" in signed.certificate_chain_pem
        assert (await refusal(agent.SignCertificate(wire.SignCertificateRequest(replica_id=PART, csr_der=csr))))[
            0
        ] is grpc.StatusCode.PERMISSION_DENIED
        for name in (THEIRS, LOCAL, "default/none-0"):
            request = wire.SignCertificateRequest(host="c", replica_id=name, csr_der=csr)
            assert (await refusal(agent.SignCertificate(request)))[0] is grpc.StatusCode.PERMISSION_DENIED
            assert (await refusal(agent.Withdraw(wire.WithdrawRequest(host="c", replica_id=name))))[
                0
            ] is grpc.StatusCode.PERMISSION_DENIED
            stream = agent.Discover(metadata=(("replica-id", name),))
            assert (await refusal(stream.read()))[0] is grpc.StatusCode.PERMISSION_DENIED
        assert door.hosts._withdrawn == {}


async def test_the_host_certificate_is_renewed_for_the_same_host_only(door: Door) -> None:
    async with (await door.join(door.token())).channel(()) as channel:
        request = wire.SignCertificateRequest(host="c", csr_der=PrivateKey.generate().bare_csr())
        signed = await stub(channel).SignCertificate(request, timeout=10)
        entry = door.trust.ledger.inspect(signed.serial)
        assert entry is not None and entry.identity == agent_identity("cluster.local", "b").uri and entry.host == "b"
        request.csr_der = PrivateKey.generate().csr(agent_identity("cluster.local", "c"))
        assert (await refusal(stub(channel).SignCertificate(request)))[0] is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "identity",
    [
        Identity("cluster.local", "default", "model"),
        Identity("cluster.local", "default", "headrace-agent_b"),
        Identity("cluster.local", "istio-system", "headrace-agent"),
        control_plane_identity("cluster.local"),
    ],
    ids=lambda identity: identity.uri,
)
async def test_certificates_of_others_do_not_open_the_agent_api(door: Door, identity: Identity) -> None:
    async with door.certified(identity) as channel:
        code, words = await refusal(stub(channel).Register(wire.RegisterRequest(host="b")))
        assert code is grpc.StatusCode.PERMISSION_DENIED and "not that of a host's agent" in words


async def test_no_certificate_and_one_of_another_root_do_not_reach_the_agent_api(door: Door) -> None:
    stranger = new_trust(door.directory / "stranger")
    async with door.certified(agent_identity("cluster.local", "b"), trust=stranger) as channel:
        assert (await refusal(stub(channel).Register(wire.RegisterRequest())))[0] is grpc.StatusCode.UNAVAILABLE
    port = int(door.address.rpartition(":")[2]) + 1
    credentials = grpc.ssl_channel_credentials(door.trust.bundle_pem.encode())
    options = [("grpc.ssl_target_name_override", CONTROL_PLANE_NAME)]
    async with grpc.aio.secure_channel(f"ipv4:127.0.0.1:{port}", credentials, options=options) as channel:
        assert (await refusal(stub(channel).Register(wire.RegisterRequest())))[0] is grpc.StatusCode.UNAVAILABLE


async def test_a_revoked_host_is_sent_away_and_gets_no_other_certificate(door: Door) -> None:
    async with (await door.join(door.token())).channel(()) as channel:
        agent = stub(channel)
        stream = agent.Trust(wire.TrustRequest())
        assert (await asyncio.wait_for(stream.read(), 10)).version
        door.keeper.revoke({"identity": agent_identity("cluster.local", "b").uri})
        code, words = await refusal(stream.read())
        assert code is grpc.StatusCode.PERMISSION_DENIED and "revoked" in words
        assert (await refusal(agent.Register(wire.RegisterRequest())))[0] is grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(StateError, match="revoked"):
        await door.join(door.token(), "again")


async def test_a_host_that_falls_silent_leaves_within_seconds(door: Door) -> None:
    changed: list[int] = []
    door.service.changed = lambda: changed.append(1)
    async with (await door.join(door.token())).channel(()) as channel:
        call = stub(channel).Report()
        ready = wire.ReplicaReport(id=OURS, address="10.80.2.1", state="ready")
        await call.write(wire.HostReport(sequence=1, replicas=[ready]))
        await asyncio.wait_for(call.read(), 10)
        assert list(door.hosts.observed()) == [OURS]
    gone: Callable[[], bool] = lambda: not door.hosts.observed()  # noqa: E731
    await until(gone, "its endpoints leave")


async def test_the_host_certificate_is_renewed_at_half_of_its_life(door: Door) -> None:
    door.opened.lifetime = 4.0
    joined = await door.join(door.token())
    first = joined._kept

    async def sign(csr: bytes) -> IssuedCertificate:
        async with joined.channel(()) as channel:
            reply = await stub(channel).SignCertificate(wire.SignCertificateRequest(csr_der=csr), timeout=10)
        return IssuedCertificate(
            reply.certificate_chain_pem,
            reply.trust_bundle_pem,
            reply.not_before_unix_ms / 1000,
            reply.not_after_unix_ms / 1000,
            reply.serial,
        )

    renewing = asyncio.create_task(joined.keep(sign))
    await until(lambda: time.time() > first.not_after + 1.0, "the first certificate has expired")
    renewing.cancel()
    assert joined._kept.key != first.key and joined._kept.not_after > time.time()
    async with joined.channel(()) as channel:
        await stub(channel).Register(wire.RegisterRequest(), timeout=10)
    assert (await door.join("")).host == "b"


async def test_requests_to_join_that_are_none_are_refused(door: Door) -> None:
    context = ssl._create_unverified_context()
    async with aiohttp.ClientSession() as session:
        for body in (b"", b"[]", b"{}", b"[" * 16_000, b'{"secret": 1, "csr": 2}', b'{"secret": "\xff", "csr": ""}'):
            async with session.post(f"https://{door.address}/v1/join", data=body, ssl=context) as answer:
                assert answer.status == 400, body[:20]
        async with session.post(f"https://{door.address}/v1/join", data=b"x" * 20_000, ssl=context) as answer:
            assert answer.status == 413
        async with session.get(f"https://{door.address}/v1/tokens", ssl=context) as answer:
            assert answer.status == 404


def test_desk_without_a_door_and_names_that_cannot_be(tmp_path: Path) -> None:
    tokens = new_tokens(tmp_path, SystemClock())
    with pytest.raises(Refused, match="join-listen"):
        TokenDesk(None, tokens, "", "local").create("b", 60.0)
    trust = new_trust(tmp_path / "cp")
    desk = TokenDesk(
        HostsDoor(trust, trust.ledger, "cluster.local", SystemClock(), 60.0), tokens, "127.0.0.1:1", "local"
    )
    for host in ("local", "", "B", "a_b", "a/b", "x" * 64, "-a"):
        with pytest.raises(Refused):
            desk.create(host, 60.0)
    for life in (0.0, -1.0, 1e9, float("nan")):
        with pytest.raises(Refused):
            desk.create("b", life)
    for number in range(100):
        desk.create(f"h{number}", 60.0)
    with pytest.raises(Refused, match="100 join tokens"):
        desk.create("b", 60.0)
    assert len(desk.listing()) == 100 and all(set(row) == {"id", "host", "until", "used"} for row in desk.listing())
