"""One replica under a real agent: started in order, reachable through its proxy, restarted when it fails, ended without
leftovers."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import aiohttp
import pytest
from tests.flows.agent_rig import SERVER, agent_rig, replica, until

from headrace.wire import agent_v1_pb2 as wire

Probe = wire.Probe


async def test_a_replica_becomes_ready_and_answers_through_its_proxy_and_ends_without_a_trace() -> None:
    async with agent_rig() as rig:
        rig.control.assign(replica("chat-0", "--name", "$(HEADRACE_REPLICA)", "--fork"))
        report = await rig.control.ready()
        status, facts = await rig.get()
        assert (status, facts["name"], facts["pid"]) == (200, "default/chat-0", report.app_pid)
        assert len(rig.processes()) == 3, "Envoy, the application and its daemon"
        assert await rig.stop() == 0
        assert rig.processes() == [], "the daemon in a session of its own too"
        assert [path.name for path in rig.places.sockets.iterdir()] == ["agent.sock"]
        assert list(rig.places.proxies.iterdir()) == []
        assert rig.control.state() == "draining" or rig.control.reports == {}
        assert rig.control.withdrawn == ["default/chat-0"]


async def test_the_application_finds_its_ports_its_proxy_and_facts_in_its_environment() -> None:
    spec = replica(
        ports=[wire.Port(number=8000, name="http", protocol="HTTP"), wire.Port(number=9000, name="grpc-admin")],
        command=[sys.executable, str(SERVER), "$(PORT_GRPC_ADMIN)", "$(NOT_THERE)", "$$(PORT)"],
        env=[wire.Variable(name="GREETING", value="hello"), wire.Variable(name="BOTH", value="$(GREETING)-$(PORT)")],
        directory="/usr",
    )
    async with agent_rig(environment={"HTTP_PROXY": "http://elsewhere:1", "FROM_USER": "yes", "PORT": "1"}) as rig:
        rig.control.assign(spec)
        report = await rig.control.ready()
        _, facts = await rig.get()
        environment, ports = facts["environment"], {item.port: item.local for item in report.app_ports}
        assert environment["PORT"] == environment["PORT_HTTP"] == environment["PORT_8000"] == str(ports[8000])
        assert environment["PORT_GRPC_ADMIN"] == str(ports[9000])
        assert facts["argv"][1:] == [str(ports[9000]), "$(NOT_THERE)", "$(PORT)"]
        assert environment["BOTH"] == f"hello-{ports[8000]}"
        assert environment["FROM_USER"] == "yes"
        assert environment["HEADRACE_REPLICA"] == "default/chat-0"
        assert environment["HEADRACE_ADDRESS"] == report.address
        assert os.readlink(f"/proc/{report.app_pid}/cwd") == "/usr"
        assert environment["NO_PROXY"] == environment["no_proxy"] == "localhost,127.0.0.1,::1"
        proxy = environment["HTTP_PROXY"]
        user, secret = proxy.removeprefix("http://").partition("@")[0].split(":")
        assert proxy == environment["http_proxy"] == f"http://chat-0:{secret}@{report.address}:{report.outbound_port}"
        assert user == "chat-0" and len(secret) >= 43
        assert report.proxy_credentials.startswith("chat-0:{SHA}")
        assert secret not in str(report) and secret not in rig.log()


async def test_everything_on_disk_and_every_socket_belongs_to_the_owner_only() -> None:
    async with agent_rig() as rig:
        rig.control.assign(replica())
        await rig.control.ready()
        wrong = []
        for path in rig.places.state.rglob("*"):
            mode = path.lstat().st_mode
            if path.name != "agent.log" and path != rig.places.agent_socket and stat.S_IMODE(mode) & 0o077:
                wrong.append(f"{path} {stat.filemode(mode)}")
        assert wrong == []
        sockets = {path.suffix for path in rig.places.sockets.iterdir()}
        assert {".x", ".a"} <= sockets


async def test_a_crashed_application_is_restarted_on_the_same_port_after_growing_waits() -> None:
    async with agent_rig() as rig:
        rig.control.assign(replica("chat-0", "--crash", "0.3"))
        first = await rig.control.ready()
        await until(lambda: rig.control.report().restarts >= 2, "two restarts")
        again = rig.control.report()
        assert (again.app_ports, again.address) == (first.app_ports, first.address)
        failures = [detail for _, state, detail in rig.control.history if state == "failed"]
        assert failures[0] == "application: exited with code 3"
        assert rig.control.state() in ("failed", "unready", "ready")


async def test_an_application_that_cannot_be_started_says_why_and_takes_nothing_with_it() -> None:
    async with agent_rig() as rig:
        rig.control.assign(replica(command=["no-such-program"]), replica("fine-0"), replica("bad-0", identity="x"))
        await rig.control.ready("default/fine-0")
        failed = await until(lambda: (rig.control.state() == "failed") and rig.control.report(), "x")
        assert "there is no program 'no-such-program'" in failed.detail
        assert rig.control.state("default/bad-0") == "failed"
        assert "spiffe://" in rig.control.report("default/bad-0").detail


@pytest.mark.parametrize(
    "probe",
    [
        Probe(http_path="/health", http_headers=[wire.Variable(name="x-probe", value="1")], port=8000),
        Probe(command=[sys.executable, "-c", "import os, sys; sys.exit(os.path.exists(os.environ['SICK']))"]),
    ],
    ids=["http", "exec"],
)
async def test_readiness_decides_about_traffic_and_comes_back(probe: wire.Probe, tmp_path: Path) -> None:
    sick = tmp_path / "sick"
    probe.period_ms, probe.failure_threshold, probe.timeout_ms = 200, 2, 2000
    async with agent_rig() as rig:
        rig.control.assign(replica(readiness=probe, env=[wire.Variable(name="SICK", value=str(sick))]))
        before = await rig.control.ready()
        sick.touch()
        await rig.get("/sick")
        unready = await until(lambda: rig.control.state() == "unready" and rig.control.report(), "x")
        assert unready.detail.startswith("application: readiness probe: ")
        assert unready.app_pid == before.app_pid, "readiness restarts nothing"


async def test_liveness_failure_restarts_the_application() -> None:
    liveness = Probe(http_path="/health", period_ms=150, failure_threshold=2, timeout_ms=1000)
    async with agent_rig() as rig:
        rig.control.assign(replica("chat-0", "--stubborn", liveness=liveness, grace_period_ms=300))
        before = await rig.control.ready()
        await rig.get("/sick")

        def restarted() -> bool:
            found = rig.control.report()
            return found.state == "ready" and found.app_pid != before.app_pid

        await until(restarted, "ready with another pid")
        after = rig.control.report()
        assert (after.restarts, after.proxy_pid) == (1, before.proxy_pid)
        failures = [detail for _, state, detail in rig.control.history if state in ("failed", "unready")]
        assert any("liveness probe failed 2 times: GET /health answered 500" in detail for detail in failures)
        assert not Path(f"/proc/{before.app_pid}").exists(), "SIGKILL after the grace period"


async def test_a_startup_probe_holds_back_the_others_until_it_passes() -> None:
    startup = Probe(tcp=True, period_ms=300, failure_threshold=20)
    liveness = Probe(http_path="/health", period_ms=100, failure_threshold=1)
    async with agent_rig() as rig:
        rig.control.assign(replica("chat-0", "--slow", "1.5", startup=startup, liveness=liveness))
        report = await rig.control.ready()
        assert report.restarts == 0, "liveness would have failed while it started"


async def test_a_crashed_envoy_is_restarted_and_configured_again() -> None:
    async with agent_rig() as rig:
        rig.control.assign(replica())
        before = await rig.control.ready()
        os.kill(before.proxy_pid, 9)
        await until(lambda: rig.control.report().proxy_pid not in (0, before.proxy_pid), "new Envoy")
        after = await rig.control.ready()
        assert (await rig.get())[1]["pid"] == before.app_pid == after.app_pid


async def test_a_removed_replica_waits_for_its_open_stream() -> None:
    async with agent_rig() as rig:
        rig.control.assign(replica(), replica("other-0"))
        report = await rig.control.ready()
        await rig.control.ready("default/other-0")
        async with rig.session.get(f"http://{report.address}:8000/stream?seconds=2") as stream:
            await stream.content.readline()
            rig.control.assign(replica("other-0"))
            await until(lambda: rig.control.withdrawn == ["default/chat-0"], "withdrawn")
            assert rig.control.state() == "draining"
            text = (await stream.content.read()).decode()
        assert text.endswith("done\n")
        await until(lambda: "default/chat-0" not in rig.control.reports, "gone")
        assert rig.control.state("default/other-0") == "ready"
        assert not _exists(report.app_pid) and not _exists(report.proxy_pid)
        with pytest.raises(aiohttp.ClientConnectorError):
            await rig.session.get(f"http://{report.address}:8000/")


async def test_the_grace_period_bounds_the_wait_for_a_stream() -> None:
    async with agent_rig() as rig:
        rig.control.assign(replica(grace_period_ms=700))
        report = await rig.control.ready()
        async with rig.session.get(f"http://{report.address}:8000/stream?seconds=60") as stream:
            await stream.content.readline()
            rig.control.assign()
            await until(lambda: not rig.control.reports, "gone", 8)
            with pytest.raises(aiohttp.ClientError):
                await stream.content.read()


async def test_a_second_signal_waits_for_nothing() -> None:
    async with agent_rig() as rig:
        rig.control.assign(replica("chat-0", "--stubborn", grace_period_ms=60_000))
        report = await rig.control.ready()
        async with rig.session.get(f"http://{report.address}:8000/stream?seconds=60") as stream:
            await stream.content.readline()
            assert rig.process is not None
            rig.process.terminate()
            await until(lambda: rig.control.state() == "draining", "draining")
            assert await rig.stop(10) == 0
        assert rig.processes() == []


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
