"""The agent and the control plane may be killed at any time: replicas keep serving and are taken over."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator

import aiohttp
from tests.flows.agent_rig import AgentRig, agent_rig, replica, until

from headrace.floor.processes import ProcessMark


class Load:
    """Requests one after the other, each with its answer; a failure is kept, never raised."""

    def __init__(self) -> None:
        self.answers = 0
        self.failures: list[str] = []


@contextlib.asynccontextmanager
async def load(rig: AgentRig, address: str) -> AsyncIterator[Load]:
    found = Load()

    async def ask() -> None:
        while True:
            try:
                async with rig.session.get(f"http://{address}:8000/") as response:
                    await response.read()
                    found.answers += 1
                    if response.status != 200:
                        found.failures.append(f"{response.status}")
            except aiohttp.ClientError as error:
                found.failures.append(f"{type(error).__name__}: {error}")
            await asyncio.sleep(0.005)

    asking = asyncio.create_task(ask())
    try:
        yield found
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def test_a_killed_agent_leaves_all_running_and_the_next_one_takes_it_over() -> None:
    async with agent_rig(tls=False) as rig:
        rig.control.assign(replica(), replica("other-0"))
        before = await rig.control.ready()
        await rig.control.ready("default/other-0")
        async with load(rig, before.address) as requests:
            stream = await rig.session.get(f"http://{before.address}:8000/stream?seconds=4")
            await stream.content.readline()
            await rig.kill()
            await asyncio.sleep(0.3)
            history = len(rig.control.history)
            serial, streams = before.certificate_serial, len(rig.control.streams)
            pushed = rig.control.hub.counters.resources_sent
            await rig.start()
            await until(lambda: len(rig.control.registered) == 2, "registered again")
            await until(lambda: rig.control.report().certificate_serial not in ("", serial), "renewed")
            await until(lambda: len(rig.control.streams) >= streams + 2, "both Envoys are back")
            assert (await stream.content.read()).endswith(b"done\n")
        after = rig.control.report()
        assert requests.failures == [] and requests.answers > 50
        assert (after.app_pid, after.proxy_pid) == (before.app_pid, before.proxy_pid)
        assert (after.address, after.app_ports, after.proxy_credentials, after.started_unix_ms) == (
            before.address,
            before.app_ports,
            before.proxy_credentials,
            before.started_unix_ms,
        )
        assert {state for _, state, _ in rig.control.history[history:]} <= {"ready"}, "never left the mesh"
        assert rig.control.hub.counters.resources_sent == pushed, "nothing that did not change was pushed"
        assert await rig.stop() == 0
        assert rig.processes() == []


async def test_a_new_agent_ends_strays_and_starts_what_died_meanwhile() -> None:
    async with agent_rig() as rig:
        rig.control.assign(replica(), replica("other-0"))
        before = await rig.control.ready()
        other = await rig.control.ready("default/other-0")
        await rig.kill()
        os.kill(before.app_pid, signal.SIGKILL)
        stray = subprocess.Popen(
            ["sleep", "100"], env={"HEADRACE_SUPERVISED": f"{rig.mesh_mark()}:app:default/chat-0:00000000:"}
        )
        foreign = subprocess.Popen(["sleep", "100"], env={"HEADRACE_SUPERVISED": "another:app:default/chat-0:0:"})
        try:
            await rig.start()
            await until(lambda: rig.control.report().app_pid not in (0, before.app_pid), "restarted")
            after = await rig.control.ready()
            assert (after.proxy_pid, after.app_ports) == (before.proxy_pid, before.app_ports)
            assert (await rig.get())[1]["pid"] == after.app_pid
            assert rig.control.report("default/other-0").app_pid == other.app_pid
            assert await asyncio.to_thread(stray.wait, 5) == -signal.SIGKILL
            assert foreign.poll() is None, "another mesh's process is left alone"
        finally:
            foreign.kill()
            foreign.wait()
            stray.kill()
            stray.wait()


async def test_an_adopted_application_that_crashes_is_restarted_and_one_that_is_removed_ends() -> None:
    async with agent_rig() as rig:
        rig.control.assign(replica())
        before = await rig.control.ready()
        await rig.kill()
        await rig.start()
        await until(lambda: len(rig.control.registered) == 2, "registered again")
        await rig.control.ready()
        os.kill(before.app_pid, signal.SIGKILL)
        await until(lambda: rig.control.report().app_pid not in (0, before.app_pid), "restarted")
        await rig.control.ready()
        rig.control.assign()
        await until(lambda: not rig.control.reports, "gone")
        assert rig.processes() == []


async def test_an_unreadable_record_means_a_clean_start() -> None:
    async with agent_rig() as rig:
        rig.control.assign(replica())
        before = await rig.control.ready()
        await rig.kill()
        (rig.places.agent / "children.json").write_text('{"schema": 1, "replicas": [{}]}')
        await rig.start()
        await until(lambda: rig.control.report().app_pid not in (0, before.app_pid), "started anew")
        await rig.control.ready()
        assert ProcessMark.of(before.proxy_pid) is None
        assert len(rig.processes()) == 2
        assert "children.json cannot be read" in rig.log()


async def test_replicas_go_on_without_a_control_plane_and_are_reported_when_it_returns() -> None:
    async with agent_rig() as rig:
        rig.control.assign(replica())
        before = await rig.control.ready()
        async with load(rig, before.address) as requests:
            await rig.control.stop()
            rig.control.reports.clear()
            os.kill(before.app_pid, 0)
            await asyncio.sleep(1.5)
            pushed, streams = rig.control.hub.counters.resources_sent, len(rig.control.streams)
            await rig.control.start()
            await until(lambda: len(rig.control.streams) > streams, "Envoy's stream", 5)
        after = await rig.control.ready()
        assert requests.failures == [] and requests.answers > 50
        assert (after.app_pid, after.proxy_pid) == (before.app_pid, before.proxy_pid)
        assert rig.control.hub.counters.resources_sent == pushed, "nothing that did not change was pushed"
        await rig.control.stop()
        os.kill(before.app_pid, signal.SIGKILL)
        await until(lambda: _answers(rig, before.address), "restarted without a control plane", 10)


async def test_a_second_agent_on_the_same_state_is_refused() -> None:
    async with agent_rig() as rig:
        rig.control.assign(replica())
        await rig.control.ready()
        second = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "headrace", "agent", "--state", str(rig.places.state), "--no-control-plane"),
            stderr=asyncio.subprocess.PIPE,
        )
        _, error = await asyncio.wait_for(second.communicate(), 20)
        assert second.returncode == 1
        assert f"an agent (pid {rig.process.pid if rig.process else 0}) runs at".encode() in error
        assert rig.control.state() == "ready"


async def test_the_record_holds_what_is_needed_and_no_private_key() -> None:
    async with agent_rig() as rig:
        rig.control.assign(replica())
        await rig.control.ready()

        def saved() -> bool:
            return bool(json.loads((rig.places.agent / "children.json").read_text())["replicas"][0]["ready"])

        await until(saved, "saved as ready")
        for path in rig.places.state.rglob("*"):
            if path.is_file():
                assert b"PRIVATE KEY" not in path.read_bytes(), path


async def _answers(rig: AgentRig, address: str) -> bool:
    with contextlib.suppress(aiohttp.ClientError):
        async with rig.session.get(f"http://{address}:8000/") as response:
            return response.status == 200
    return False
