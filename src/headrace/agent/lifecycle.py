"""The state machine of one replica: what to do next, given what is known. No I/O, time passed in.

Driven by `agent.replica`, which executes the actions and tells the machine what came of them. Order of a start:
certificate, proxy, application (once the proxy is live, so that its first request finds a way out). Order of an end:
out of the mesh, no request in flight, application, proxy: no request is lost on either path.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

from headrace.agent.supervision import RestartPolicy, Supervision


class State(StrEnum):
    """What is reported of a replica (ReplicaReport.state)."""

    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"
    DRAINING = "draining"
    FAILED = "failed"
    STOPPED = "stopped"


class Action(Enum):
    """What the driver must do; each is asked for once until its outcome was told."""

    OBTAIN_CERTIFICATE = auto()
    START_PROXY = auto()
    START_APP = auto()
    RESTART_APP = auto()
    START_SUCCESSOR = auto()
    SWITCH = auto()
    WITHDRAW = auto()
    AWAIT_IDLE = auto()
    STOP_APP = auto()
    STOP_PROXY = auto()


class _Stage(Enum):
    RUN = auto()
    WITHDRAW = auto()
    IDLE = auto()
    APP = auto()
    PROXY = auto()
    DONE = auto()


_STOPPING = {
    _Stage.WITHDRAW: Action.WITHDRAW,
    _Stage.IDLE: Action.AWAIT_IDLE,
    _Stage.APP: Action.STOP_APP,
    _Stage.PROXY: Action.STOP_PROXY,
}
_AFTER = {_Stage.WITHDRAW: _Stage.IDLE, _Stage.IDLE: _Stage.APP, _Stage.APP: _Stage.PROXY, _Stage.PROXY: _Stage.DONE}


@dataclass(slots=True)
class AppFacts:
    """What is known of one application process. `detail` says what the probes lack, for people."""

    supervision: Supervision
    ready: bool = False
    was_ready: bool = False
    detail: str = "not started yet"


class Machine:
    """One replica. Methods named after facts take them in; `actions` says what is due, `wake_at` when to ask again."""

    def __init__(
        self, has_app: bool, policy: RestartPolicy, proxy_policy: RestartPolicy, source: random.Random
    ) -> None:
        self._policy, self._source = policy, source
        self._has_app = has_app
        self._certificate = False
        self._live = False
        self._stage = _Stage.RUN
        self._in_mesh = False
        self._asked: set[Action] = set()
        self._unhealthy = ""
        self._replacing = False
        self._proxy_detail = "the proxy waits for its certificate"
        self.proxy = Supervision(proxy_policy, source)
        self.app = self._new_app()
        self.successor: AppFacts | None = None

    # What happened

    def adopted(self, now: float, *, proxy: bool, app: bool, ready: bool, restarts: int = 0) -> None:
        """An earlier agent's processes were found running; `ready` is what it last reported."""
        if proxy:
            self.proxy.adopted(now, 0)
            self._live = ready
            self._proxy_detail = "the proxy is not live yet"
        if app:
            self.app.supervision.adopted(now, restarts)
            self.app.ready = self.app.was_ready = ready
        self._in_mesh = ready

    def certificate_obtained(self) -> None:
        self._certificate = True
        self._asked.discard(Action.OBTAIN_CERTIFICATE)
        self._proxy_detail = "the proxy is not live yet"

    def certificate_waits(self, why: str) -> None:
        """No certificate yet; the driver keeps asking."""
        self._proxy_detail = f"no certificate: {why}"

    def identity_changed(self) -> None:
        """Another identity needs another certificate; the old one serves until then."""
        self._certificate = False

    def proxy_started(self, now: float) -> None:
        self._asked.discard(Action.START_PROXY)
        self.proxy.started(now)

    def proxy_live(self, live: bool, detail: str = "") -> None:
        """What Envoy's /ready says."""
        self._live = live and self.proxy.running
        self._proxy_detail = detail or "the proxy is not live yet"

    def proxy_ended(self, now: float, reason: str) -> None:
        self._asked.discard(Action.START_PROXY)
        self._live = False
        self.proxy.ended(now, reason)

    def app_started(self, now: float, *, successor: bool = False) -> None:
        facts = self._facts(successor)
        self._asked.discard(Action.START_SUCCESSOR if successor else Action.START_APP)
        facts.supervision.started(now)
        facts.detail = "its probes have not passed yet"

    def app_probed(self, ready: bool, detail: str, *, successor: bool = False) -> None:
        """What startup and readiness probes say together."""
        facts = self._facts(successor)
        facts.ready = ready and facts.supervision.running
        facts.was_ready |= facts.ready
        facts.detail = detail

    def app_unhealthy(self, detail: str) -> None:
        """The liveness (or startup) probe failed for good: restart."""
        self._unhealthy = detail
        self.app.ready = False

    def app_ended(self, now: float, reason: str, *, successor: bool = False) -> None:
        """The process is gone, by itself, by a restart, or because it could not be started."""
        facts = self._facts(successor)
        facts.ready = facts.was_ready = False
        if successor:
            self._asked -= {Action.START_SUCCESSOR, Action.SWITCH}
        else:
            self._asked -= {Action.START_APP, Action.RESTART_APP}
            reason, self._unhealthy = self._unhealthy or reason, ""
        facts.supervision.ended(now, reason)

    def replace(self) -> bool:
        """A new spec came. True: a successor is started beside the serving process. False: nothing serves, so the
        driver ends what there is and the new one starts in place (`restart_in_place`)."""
        if not self.app.ready:
            self._replacing = True
            return False
        self.successor = self._new_app()
        self._asked -= {Action.START_SUCCESSOR, Action.SWITCH}
        return True

    def restart_in_place(self) -> None:
        """The application's process was ended for its new spec: start anew without a wait."""
        self.app = self._new_app()
        self.successor = None
        self._unhealthy, self._replacing = "", False
        self._asked -= {Action.START_APP, Action.RESTART_APP, Action.START_SUCCESSOR, Action.SWITCH}

    def switched(self) -> None:
        """The proxy sends requests to the successor now; the old process is the driver's to drain."""
        if self.successor is not None:
            self.app, self.successor = self.successor, None
        self._unhealthy = ""
        self._asked -= {Action.SWITCH, Action.START_APP, Action.RESTART_APP}

    def stop(self) -> None:
        """End it gracefully, whatever it is doing; a second call changes nothing."""
        if self._stage is _Stage.RUN:
            self._stage = _Stage.WITHDRAW if self._in_mesh else _Stage.APP

    def stage_done(self, action: Action) -> None:
        """A stopping action was completed."""
        if _STOPPING.get(self._stage) is action:
            self._stage = _AFTER[self._stage]

    # What follows

    def actions(self, now: float) -> list[Action]:
        """What is to be started now, each action once."""
        if self._stage is not _Stage.RUN:
            wanted = [_STOPPING[self._stage]] if self._stage in _STOPPING else []
        else:
            wanted = self._running_actions(now)
        new = [action for action in wanted if action not in self._asked]
        self._asked.update(new)
        for action in new:
            if action is Action.START_PROXY:
                self.proxy.starting()
            elif action is Action.START_APP:
                self.app.supervision.starting()
            elif action is Action.START_SUCCESSOR and self.successor is not None:
                self.successor.supervision.starting()
        self._in_mesh |= self.state is State.READY
        return new

    def _running_actions(self, now: float) -> list[Action]:
        wanted = []
        if not self._certificate:
            wanted.append(Action.OBTAIN_CERTIFICATE)
        elif self.proxy.due(now):
            wanted.append(Action.START_PROXY)
        if self._has_app and not self._replacing:
            before = self.app.supervision.restarts > 0 or self.app.supervision.waiting
            if self.app.supervision.due(now) and (self._live or before):
                wanted.append(Action.START_APP)
            if self._unhealthy and self.app.supervision.running:
                wanted.append(Action.RESTART_APP)
            if self.successor is not None:
                if self.successor.supervision.due(now):
                    wanted.append(Action.START_SUCCESSOR)
                if self.successor.ready:
                    wanted.append(Action.SWITCH)
        return wanted

    def wake_at(self, now: float) -> float | None:
        """When `actions` may say something new without a new fact."""
        if self._stage is not _Stage.RUN:
            return None
        supervisions = [self.proxy]
        if self._has_app:
            supervisions.append(self.app.supervision)
        if self.successor is not None:
            supervisions.append(self.successor.supervision)
        due = [time for item in supervisions if (time := item.next_due()) is not None and time > now]
        return min(due, default=None)

    @property
    def state(self) -> State:
        """What is reported."""
        if self._stage is _Stage.DONE:
            return State.STOPPED
        if self._stage is not _Stage.RUN:
            return State.DRAINING
        if self.proxy.waiting or (self._has_app and self.app.supervision.waiting):
            return State.FAILED
        if self._live and (not self._has_app or self.app.ready):
            return State.READY
        return State.UNREADY if self._in_mesh else State.STARTING

    @property
    def detail(self) -> str:
        """Why it is not simply ready, for people; empty where it is."""
        if self._stage is not _Stage.RUN:
            return ""
        if self.proxy.waiting:
            return f"proxy: {self.proxy.reason}"
        if self._has_app and self.app.supervision.waiting:
            return f"application: {self.app.supervision.reason}"
        if not self._live:
            return self._proxy_detail
        if self._has_app and not self.app.ready:
            return f"application: {self._unhealthy or self.app.detail}"
        if self.successor is not None:
            return f"its new version is not ready: {self.successor.supervision.reason or self.successor.detail}"
        return ""

    @property
    def live(self) -> bool:
        """Whether the proxy is live."""
        return self._live

    @property
    def stopping(self) -> bool:
        return self._stage is not _Stage.RUN

    def _facts(self, successor: bool) -> AppFacts:
        if successor and self.successor is not None:
            return self.successor
        return self.app

    def _new_app(self) -> AppFacts:
        return AppFacts(Supervision(self._policy, self._source))
