"""The state machine of one replica, as a script of facts and what follows from them."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from headrace.agent.lifecycle import Action, Machine, State
from headrace.agent.supervision import RestartPolicy


class NoJitter(random.Random):
    def random(self) -> float:
        return 0.0


def machine(has_app: bool = True) -> Machine:
    return Machine(has_app, RestartPolicy(1.0, 8.0, 60.0), RestartPolicy(0.1, 8.0, 60.0), NoJitter())


def ready_machine() -> Machine:
    found = machine()
    found.actions(0.0)
    found.certificate_obtained()
    found.actions(0.0)
    found.proxy_started(0.0)
    found.proxy_live(True)
    found.actions(0.0)
    found.app_started(0.0)
    found.app_probed(True, "")
    assert found.actions(0.0) == [] and found.state is State.READY
    return found


def test_a_start_is_certificate_then_proxy_then_application() -> None:
    one = machine()
    assert one.actions(0.0) == [Action.OBTAIN_CERTIFICATE]
    assert (one.state, one.detail) == (State.STARTING, "the proxy waits for its certificate")
    one.certificate_waits("permission denied")
    assert one.detail == "no certificate: permission denied"
    assert one.actions(0.0) == []
    one.certificate_obtained()
    assert one.actions(0.0) == [Action.START_PROXY]
    one.proxy_started(0.0)
    assert one.actions(0.1) == []
    one.proxy_live(True)
    assert one.actions(0.2) == [Action.START_APP]
    one.app_started(0.2)
    assert one.state is State.STARTING
    one.app_probed(False, "startup probe: nothing listens")
    assert one.detail == "application: startup probe: nothing listens"
    one.app_probed(True, "")
    assert (one.actions(0.3), one.state, one.detail) == ([], State.READY, "")


def test_a_gateway_is_ready_when_its_proxy_is_live() -> None:
    one = machine(has_app=False)
    one.actions(0.0)
    one.certificate_obtained()
    one.actions(0.0)
    one.proxy_started(0.0)
    one.proxy_live(True)
    assert one.actions(0.0) == [] and one.state is State.READY


def test_readiness_moves_it_out_of_the_mesh_and_back() -> None:
    one = ready_machine()
    one.app_probed(False, "readiness probe: GET / answered 500")
    assert one.state is State.UNREADY and "500" in one.detail
    one.app_probed(True, "")
    assert one.state is State.READY


def test_a_crash_is_a_failure_until_the_restart() -> None:
    one = ready_machine()
    one.app_ended(10.0, "killed by SIGSEGV")
    assert (one.state, one.detail) == (State.FAILED, "application: killed by SIGSEGV")
    assert one.actions(10.5) == [] and one.wake_at(10.5) == 11.0
    assert one.actions(11.0) == [Action.START_APP]
    one.app_started(11.0)
    assert one.state is State.UNREADY
    one.app_probed(True, "")
    assert one.state is State.READY


def test_an_application_restarts_also_while_the_proxy_is_down() -> None:
    one = ready_machine()
    one.proxy_ended(5.0, "killed by SIGKILL")
    one.app_ended(5.0, "exited with code 1")
    assert one.detail.startswith("proxy: killed")
    assert set(one.actions(6.0)) == {Action.START_PROXY, Action.START_APP}


def test_liveness_restarts_once_and_tells_why() -> None:
    one = ready_machine()
    one.app_unhealthy("liveness probe failed 3 times: no answer within 1 s")
    assert one.actions(1.0) == [Action.RESTART_APP]
    assert one.actions(1.0) == [] and one.state is State.UNREADY
    one.app_ended(2.0, "killed by SIGTERM")
    assert one.state is State.FAILED and "liveness probe failed" in one.detail
    assert one.actions(3.0) == [Action.START_APP]


def test_an_end_is_mesh_then_requests_then_application_then_proxy() -> None:
    one = ready_machine()
    one.stop()
    for action in (Action.WITHDRAW, Action.AWAIT_IDLE, Action.STOP_APP, Action.STOP_PROXY):
        assert one.state is State.DRAINING
        assert one.actions(1.0) == [action]
        assert one.actions(1.0) == []
        if action is Action.STOP_APP:
            one.app_ended(1.0, "killed by SIGTERM")
        one.stage_done(action)
    assert one.state is State.STOPPED and one.actions(2.0) == []


def test_what_never_was_in_the_mesh_need_not_be_withdrawn() -> None:
    one = machine()
    one.actions(0.0)
    one.stop()
    assert one.actions(0.0) == [Action.STOP_APP]


def test_an_unready_replica_is_withdrawn_too() -> None:
    one = ready_machine()
    one.app_probed(False, "readiness probe: no")
    one.stop()
    assert one.actions(0.0) == [Action.WITHDRAW]


def test_an_adopted_replica_is_ready_at_once_and_asks_for_a_certificate_only() -> None:
    one = machine()
    one.adopted(100.0, proxy=True, app=True, ready=True, restarts=2)
    assert one.state is State.READY and one.app.supervision.restarts == 2
    assert one.actions(100.0) == [Action.OBTAIN_CERTIFICATE]
    one.certificate_obtained()
    assert one.actions(100.0) == [] and one.state is State.READY


def test_what_died_while_no_agent_ran_is_started() -> None:
    one = machine()
    one.adopted(100.0, proxy=True, app=False, ready=False)
    one.actions(100.0)
    one.proxy_live(True)
    assert one.actions(100.0) == [Action.START_APP]


def test_a_new_version_starts_beside_the_old_one_and_takes_over() -> None:
    one = ready_machine()
    assert one.replace()
    assert one.actions(1.0) == [Action.START_SUCCESSOR]
    one.app_started(1.0, successor=True)
    assert one.state is State.READY and "not ready" in one.detail
    one.app_probed(True, "", successor=True)
    assert one.actions(2.0) == [Action.SWITCH]
    assert one.actions(2.0) == []
    one.switched()
    assert (one.state, one.detail, one.successor) == (State.READY, "", None)
    one.app_ended(100.0, "exited with code 1")
    assert one.state is State.FAILED, "the facts are the successor's now"


def test_a_successor_that_fails_is_tried_again_and_disturbs_nothing() -> None:
    one = ready_machine()
    one.replace()
    one.actions(1.0)
    one.app_started(1.0, successor=True)
    one.app_ended(1.5, "exited with code 2", successor=True)
    assert one.state is State.READY and "exited with code 2" in one.detail
    assert one.actions(2.0) == [] and one.wake_at(2.0) == 2.5
    assert one.actions(2.5) == [Action.START_SUCCESSOR]


def test_where_nothing_serves_the_new_version_waits_for_the_end_of_the_old_one() -> None:
    one = ready_machine()
    one.app_ended(1.0, "exited with code 1")
    assert not one.replace()
    assert one.actions(50.0) == [], "the driver is ending what there is"
    one.restart_in_place()
    assert one.actions(50.0) == [Action.START_APP]


def test_another_identity_needs_another_certificate() -> None:
    one = ready_machine()
    one.identity_changed()
    assert one.actions(1.0) == [Action.OBTAIN_CERTIFICATE] and one.state is State.READY


FACTS = (
    lambda one, now: one.certificate_obtained(),
    lambda one, now: one.proxy_live(True),
    lambda one, now: one.proxy_live(False),
    lambda one, now: one.proxy_ended(now, "gone") if one.proxy.running else None,
    lambda one, now: one.app_probed(True, ""),
    lambda one, now: one.app_probed(False, "no"),
    lambda one, now: one.app_unhealthy("sick") if one.app.supervision.running else None,
    lambda one, now: one.app_ended(now, "gone") if one.app.supervision.running else None,
    lambda one, now: one.replace() if one.app.ready else None,
    lambda one, now: one.stop(),
)


@given(st.lists(st.integers(0, len(FACTS) - 1), max_size=40))
def test_any_order_of_facts_asks_for_nothing_twice_and_always_comes_to_an_end(order: list[int]) -> None:
    one, now = machine(), 0.0
    under_way: set[Action] = set()

    def settle() -> None:
        for action in one.actions(now):
            assert action not in under_way or action is Action.OBTAIN_CERTIFICATE
            match action:
                case Action.START_PROXY:
                    assert not one.proxy.running
                    one.proxy_started(now)
                case Action.START_APP:
                    assert not one.app.supervision.running
                    one.app_started(now)
                case Action.START_SUCCESSOR:
                    one.app_started(now, successor=True)
                case Action.RESTART_APP:
                    one.app_ended(now, "restarted")
                case Action.SWITCH:
                    one.switched()
                case Action.WITHDRAW | Action.AWAIT_IDLE | Action.STOP_APP | Action.STOP_PROXY:
                    under_way.add(action)
                    one.stage_done(action)

    for step in order:
        now += 1.0
        FACTS[step](one, now)
        settle()
        if one.state is State.READY:
            assert one.proxy.running and one.app.supervision.running
    one.stop()
    for _ in range(6):
        now += 1.0
        settle()
    assert one.state is State.STOPPED
