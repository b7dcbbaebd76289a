"""Discovery against the real Envoy: over a Unix socket, as the agent serves it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.flows.envoy_process import EnvoyProcess, running_envoy
from tests.flows.xds_resources import FixedResources, cluster, direct_route, endpoints, listener, weighted_route

from headrace.envoy.bootstrap import BootstrapSettings, bootstrap_json
from headrace.envoy.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE, ResourceSet, XdsResource
from headrace.envoy.xds.hub import Hub
from headrace.envoy.xds.service import discovery_handler, unix_server
from headrace.envoy.xds.status import ProxyStatus
from headrace.floor.clock import SystemClock

PROXY = "sidecar/default/p"


@dataclass
class Rig:
    """One Envoy on its socket; the control plane behind it can be stopped and started."""

    directory: Path
    source: FixedResources
    hub: Hub
    envoy: EnvoyProcess

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        handler = discovery_handler(ads=functools.partial(self.hub.stream, PROXY))
        async with unix_server(self.directory / "xds", [handler]):
            yield

    def set(self, *resources: XdsResource) -> int:
        self.source[PROXY] = ResourceSet.collect(resources)
        return self.hub.publish(self.source)

    async def push(self, *resources: XdsResource, seconds: float = 5.0) -> float:
        """Publish, and wait until Envoy has answered; how long that took, in milliseconds."""
        start = time.perf_counter()
        assert await self.hub.acknowledged(self.set(*resources), seconds) == frozenset(), self.envoy.log_text()[-2000:]
        return (time.perf_counter() - start) * 1000

    async def status(self, condition: Callable[[ProxyStatus], bool], what: str) -> ProxyStatus:
        """The proxy's status once it fulfils the condition."""
        async with asyncio.timeout(10):
            while True:
                status = self.hub.status(PROXY)
                if status is not None and condition(status):
                    return status
                await asyncio.sleep(0.005)
        raise AssertionError(what)

    async def stats(self, pattern: str) -> dict[str, int]:
        return await asyncio.to_thread(self.envoy.stats, pattern)

    async def get(self, name: str, host: str = "any") -> str:
        """What the listener of that name answers."""

        def ask() -> str:
            connection = http.client.HTTPConnection(*self.envoy.listener_address(name), timeout=5)
            with contextlib.closing(connection):
                connection.request("GET", "/", headers={"host": host})
                return connection.getresponse().read().decode()

        return await asyncio.to_thread(ask)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    directory = Path(tempfile.mkdtemp(prefix="hr-xds-"))
    source = FixedResources()
    settings = BootstrapSettings("p", "p", directory / "xds", directory / "admin")
    envoy = running_envoy(bootstrap_json(settings), directory / "admin")
    process = await asyncio.to_thread(envoy.__enter__)
    try:
        yield Rig(directory, source, Hub(source, SystemClock()), process)
    finally:
        await asyncio.to_thread(envoy.__exit__, None, None, None)
        shutil.rmtree(directory)


def complete(status: ProxyStatus) -> bool:
    """All four types are asked for and in force."""
    return len(status.types) == 4 and status.in_sync


def base(connect_ms: int = 1000, text: str = "one") -> tuple[XdsResource, ...]:
    return (cluster("a", connect_ms), endpoints("a", [9]), listener("front", "r"), direct_route("r", text))


async def test_everything_reaches_envoy_and_the_status_says_so(rig: Rig) -> None:
    async with rig.serving():
        rig.set(*base())
        status = await rig.status(complete, "all in force")
        assert [kind.type_url for kind in status.types] == [CLUSTER, ENDPOINT, LISTENER, ROUTE]
        assert all(kind.acknowledged == kind.sent == kind.published != "" for kind in status.types)
        assert status.push_ms is not None and 0 < status.push_ms < 5000
        assert await rig.get("front") == "one"
        took = await rig.push(*base(text="two"))
        assert await rig.get("front") == "two"
        assert took < 1000


async def test_a_changed_cluster_does_not_stall(rig: Rig) -> None:
    """Envoy's own wait for endpoints is 15 s; without the endpoints after the cluster this test takes that long."""
    async with rig.serving():
        rig.set(*base())
        await rig.status(complete, "all in force")
        for change in range(1, 6):
            assert await rig.push(*base(connect_ms=1000 + change)) < 2000
            stats = await rig.stats("^cluster_manager.warming_clusters$")
            assert stats == {"cluster_manager.warming_clusters": 0}


async def test_a_changed_listener_takes_over_without_its_routes_being_sent_again(rig: Rig) -> None:
    async with rig.serving():
        rig.set(*base())
        await rig.status(complete, "all in force")
        routes = rig.hub.counters.by_type[ROUTE]
        await rig.push(
            cluster("a"), endpoints("a", [9]), listener("front", "r", stat_prefix="b"), direct_route("r", "one")
        )
        async with asyncio.timeout(5):
            while (await rig.stats("^listener_manager.total_listeners_(warming|active)$")) != {
                "listener_manager.total_listeners_warming": 0,
                "listener_manager.total_listeners_active": 1,
            }:
                await asyncio.sleep(0.01)
        assert await rig.get("front") == "one"
        assert (await rig.stats("^http.b.downstream_rq_total$")) == {"http.b.downstream_rq_total": 1}
        assert rig.hub.counters.by_type[ROUTE] == routes


async def test_endpoints_are_warm_in_the_order_of_one_push(rig: Rig) -> None:
    """A new cluster with its route, and the old cluster's removal: no answer names a cluster that is not there."""
    async with rig.serving():
        rig.set(cluster("a"), endpoints("a", [9]), listener("front", "r"), weighted_route("r", {"a": 1}))
        await rig.status(complete, "all in force")
        before = dict(rig.hub.counters.by_type)
        await rig.push(cluster("b"), endpoints("b", [9]), listener("front", "r"), weighted_route("r", {"b": 1}))
        after = rig.hub.counters.by_type
        assert after[CLUSTER] - before[CLUSTER] == 2, "the addition, and later the removal"
        assert after[ROUTE] - before[ROUTE] == 1
        assert sorted(await rig.stats("^cluster.[ab].membership_total$")) == ["cluster.b.membership_total"]


async def test_envoys_words_are_kept_when_it_refuses_and_the_next_change_goes_out(rig: Rig) -> None:
    async with rig.serving():
        rig.set(*base())
        await rig.status(complete, "all in force")
        bad = (*base()[:3], direct_route("r", "bad", ["same.test", "same.test"]))
        await rig.push(*bad)
        status = rig.hub.status(PROXY)
        assert status is not None
        (nack,) = status.nacks
        assert "Only unique values for domains are permitted" in nack.message
        assert nack.resources == ("r",)
        assert not status.in_sync
        assert await rig.get("front") == "one"
        sent = rig.hub.counters.by_type[ROUTE]
        await rig.push(*bad)
        assert rig.hub.counters.by_type[ROUTE] == sent, "the same content is not tried again"
        await rig.push(*base(text="good"))
        assert await rig.get("front") == "good"
        status = rig.hub.status(PROXY)
        assert status is not None and status.in_sync and status.nacks == ()


async def test_good_routes_come_into_force_beside_a_bad_one(rig: Rig) -> None:
    names = ("r1", "r2", "r3", "r4", "r5")
    listeners = [listener(f"l-{name}", name) for name in names]
    async with rig.serving():
        rig.set(cluster("a"), endpoints("a", [9]), *listeners, *(direct_route(name, "one") for name in names))
        await rig.status(complete, "all in force")
        bad = direct_route("r3", "bad", ["same.test", "same.test"])
        good = [direct_route(name, "two") for name in names if name != "r3"]
        await rig.push(cluster("a"), endpoints("a", [9]), *listeners, *good, bad)
        answers = {name: await rig.get(f"l-{name}") for name in names}
        assert answers == {"r1": "two", "r2": "two", "r3": "one", "r4": "two", "r5": "two"}
        status = rig.hub.status(PROXY)
        assert status is not None
        assert [nack.resources for nack in status.nacks] == [("r3",)]


async def test_a_restarted_control_plane_pushes_nothing_that_did_not_change(rig: Rig) -> None:
    async with rig.serving():
        rig.set(*base())
        await rig.status(complete, "all in force")
    assert await rig.get("front") == "one", "Envoy goes on alone"

    rig.hub = Hub(rig.source, SystemClock())
    async with rig.serving():
        await rig.status(complete, "reconnected")
        assert (rig.hub.counters.responses, rig.hub.counters.response_bytes) == (0, 0)
        await rig.push(*base(text="two"))
        assert rig.hub.counters.by_type == {ROUTE: 1}
        assert await rig.get("front") == "two"


async def test_a_control_plane_that_does_not_know_the_proxy_yet_leaves_it_alone(rig: Rig) -> None:
    async with rig.serving():
        rig.set(*base())
        await rig.status(complete, "all in force")
    resources = rig.source.pop(PROXY)

    rig.hub = Hub(rig.source, SystemClock())
    async with rig.serving():
        await rig.status(lambda status: len(status.types) == 4, "reconnected")
        assert rig.hub.counters.responses == 0
        assert await rig.get("front") == "one"
        rig.hub.publish({PROXY: resources})
        await rig.status(complete, "in force")
        assert rig.hub.counters.responses == 0


async def test_what_changed_meanwhile_is_pushed_after_reconnecting(rig: Rig) -> None:
    async with rig.serving():
        rig.set(cluster("a"), endpoints("a", [9]), cluster("b"), endpoints("b", [9]), *base()[2:])
        await rig.status(complete, "all in force")
    rig.set(cluster("a", 1001), endpoints("a", [9]), cluster("c"), endpoints("c", [9]), *base()[2:])

    rig.hub = Hub(rig.source, SystemClock())
    async with rig.serving():
        start = time.perf_counter()
        await rig.status(complete, "in force")
        assert time.perf_counter() - start < 8, "no cluster waits for endpoints that do not come"
        assert sorted(await rig.stats("^cluster.[abc].membership_total$")) == [
            "cluster.a.membership_total",
            "cluster.c.membership_total",
        ]
        assert rig.hub.counters.by_type == {CLUSTER: 2, ENDPOINT: 2}
