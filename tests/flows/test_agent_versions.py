"""A changed spec starts the new process, waits until it is ready, and only then ends the old one."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.flows.agent_rig import agent_rig, replica, until
from tests.flows.test_agent_adoption import load

from headrace.wire import agent_v1_pb2 as wire


async def test_a_new_version_takes_over_without_a_lost_request_and_the_old_one_ends_after_its_stream() -> None:
    async with agent_rig() as rig:
        rig.control.assign(replica("chat-0", "--name", "old"))
        old = await rig.control.ready()
        async with load(rig, old.address) as requests:
            async with rig.session.get(f"http://{old.address}:8000/stream?seconds=3") as stream:
                await stream.content.readline()
                rig.control.assign(replica("chat-0", "--name", "new", "--slow", "0.5", spec_hash="2"))
                new = await rig.control.ready(spec="2")
                assert (await rig.get())[1]["name"] == "new"
                assert Path(f"/proc/{old.app_pid}").exists(), "its stream goes on"
                assert (await stream.content.read()).endswith(b"done\n")
            await until(lambda: not Path(f"/proc/{old.app_pid}").exists(), "the old process ends")
            await asyncio.sleep(0.2)
        assert requests.failures == [] and requests.answers > 50
        assert (new.proxy_pid, new.address) == (old.proxy_pid, old.address)
        assert new.app_pid != old.app_pid and new.app_ports != old.app_ports
        assert rig.control.withdrawn == []
        assert [state for _, state, _ in rig.control.history].count("ready") == 1, "it never left the mesh"
        assert len(rig.processes()) == 2


async def test_a_version_that_never_gets_ready_leaves_the_old_one_in_service() -> None:
    async with agent_rig() as rig:
        rig.control.assign(replica("chat-0", "--name", "old"))
        old = await rig.control.ready()
        rig.control.assign(replica("chat-0", "--crash", "0", spec_hash="2"))
        await until(lambda: "its new version is not ready: exited" in rig.control.report().detail, "says so")
        report = rig.control.report()
        assert (report.state, report.spec_hash, report.app_pid) == ("ready", "1", old.app_pid)
        rig.control.assign(replica("chat-0", "--name", "third", spec_hash="3"))
        await rig.control.ready(spec="3")
        assert (await rig.get())[1]["name"] == "third"


async def test_a_failing_process_is_replaced_at_once_by_its_new_version() -> None:
    async with agent_rig() as rig:
        rig.control.assign(replica("chat-0", command=["no-such-program"]))
        await until(lambda: rig.control.state() == "failed", "failed")
        rig.control.assign(replica("chat-0", "--name", "good", spec_hash="2"))
        await rig.control.ready(spec="2")
        assert (await rig.get())[1]["name"] == "good"


async def test_changed_probes_need_no_new_process() -> None:
    async with agent_rig() as rig:
        rig.control.assign(replica())
        before = await rig.control.ready()
        probe = wire.Probe(http_path="/nowhere/../sick", period_ms=100, failure_threshold=1, port=8000)
        liveness = wire.Probe(http_path="/health", period_ms=100, failure_threshold=1)
        rig.control.assign(replica(readiness=probe))
        await asyncio.sleep(0.5)
        assert rig.control.report().app_pid == before.app_pid
        assert rig.control.state() == "ready"
        rig.control.assign(replica(readiness=probe, liveness=liveness))
        await until(lambda: rig.control.report().restarts == 1, "the new liveness probe acts")


async def test_another_identity_gets_another_certificate_and_keeps_the_envoy() -> None:
    async with agent_rig(tls=True) as rig:
        rig.control.assign(replica())
        before = await rig.control.ready()
        rig.control.assign(
            replica(identity="spiffe://cluster.local/ns/default/sa/chat", service_account="chat", spec_hash="2")
        )
        after = await rig.control.ready(spec="2")
        await until(lambda: rig.control.report().certificate_serial != before.certificate_serial, "certificate")
        assert after.proxy_pid == before.proxy_pid
