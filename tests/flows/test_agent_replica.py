"""One replica under a real agent: started in order, reachable through its proxy, ended without leftovers."""

from __future__ import annotations

from tests.flows.agent_rig import agent_rig, replica


async def test_a_replica_becomes_ready_and_answers_through_its_proxy() -> None:
    async with agent_rig() as rig:
        rig.control.assign(replica("chat-0", "--name", "$(HEADRACE_REPLICA)"))
        report = await rig.control.ready()
        status, facts = await rig.get()
        assert (status, facts["name"], facts["pid"]) == (200, "default/chat-0", report.app_pid)
        assert await rig.stop() == 0
        assert rig.processes() == []
