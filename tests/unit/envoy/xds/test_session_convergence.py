"""Whatever happens in whatever order, a client like Envoy ends up with the published set, and its routes never name a
cluster that it lacks.

The client of this test behaves as Envoy does where it matters: it asks for the endpoints of its clusters and the
routes of its listeners by itself, warms every cluster that it is sent until endpoints come, withholds the answer to
clusters while one is warming, and refuses bad resources. Time passes too slowly for patience to save anything.
"""

from __future__ import annotations

from collections import deque

import hypothesis.strategies as st
from envoy.service.discovery.v3 import discovery_pb2
from hypothesis import given, settings
from tests.unit.envoy.xds.xds_client import Answer, ManualClock, parse, resource_set

from headrace.envoy.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE, ResourceSet
from headrace.envoy.xds.assembly import Assembler
from headrace.envoy.xds.session import Session

_NAMES = "abc"
_REFERENCES = {LISTENER: ROUTE, CLUSTER: ENDPOINT}


class ModelEnvoy:
    """The client, with a queue in each direction."""

    def __init__(self, assembler: Assembler, clock: ManualClock) -> None:
        self._assembler, self._clock = assembler, clock
        self.held: dict[str, dict[str, str]] = {CLUSTER: {}, ENDPOINT: {}, LISTENER: {}, ROUTE: {}}
        self.versions: dict[str, dict[str, str]] = {kind: {} for kind in self.held}
        self.wanted: dict[str, set[str]] = {ENDPOINT: set(), ROUTE: set()}
        # Applied out of a refused response: Envoy notes no version for it, so no server can know of it after a cut.
        self.unnoted: set[tuple[str, str]] = set()
        self.unknown: set[str] = set()
        self.connect(None)

    def connect(self, resources: ResourceSet | None, generation: int = 0) -> None:
        self.session = Session(self._assembler, self._clock)
        if resources is not None:
            self.session.update(resources, generation)
        self.up: deque[bytes] = deque()
        self.down: deque[bytes] = deque()
        self.withheld: list[discovery_pb2.DeltaDiscoveryRequest] = []
        # Envoy gives up waiting for endpoints after a while, by itself: a cut between the two responses costs that.
        self.warming: set[str] = set()
        self.unknown |= {name for _, name in self.unnoted}
        for kind in (CLUSTER, LISTENER):
            self._request(kind, versions=self.versions[kind])
        for kind in (ENDPOINT, ROUTE):
            if self.wanted[kind]:
                self._request(kind, self.wanted[kind], versions=self.versions[kind])

    def _request(
        self,
        kind: str,
        subscribe: set[str] | None = None,
        unsubscribe: set[str] | None = None,
        versions: dict[str, str] | None = None,
    ) -> None:
        request = discovery_pb2.DeltaDiscoveryRequest(
            type_url=kind,
            resource_names_subscribe=sorted(subscribe or ()),
            resource_names_unsubscribe=sorted(unsubscribe or ()),
            initial_resource_versions=versions or {},
        )
        self.up.append(request.SerializeToString())

    def server_step(self) -> None:
        if self.up:
            self.session.receive(self.up.popleft())
        self.down.extend(response.message() for response in self.session.outgoing())

    def client_step(self) -> None:
        if self.down:
            self._apply(parse(self.down.popleft()))

    def _apply(self, answer: Answer) -> None:
        kind = answer.type_url
        bad = sorted(name for name, body in answer.resources.items() if body.startswith("bad"))
        answered = discovery_pb2.DeltaDiscoveryRequest(type_url=kind, response_nonce=answer.nonce)
        if bad:
            answered.error_detail.message = f"bad: {bad}"
        partly = kind in (CLUSTER, LISTENER)  # Envoy applies the good ones of these types
        for name, body in answer.resources.items():
            wanted = name in self.wanted.get(kind, answer.resources)
            if wanted and (not bad or (partly and name not in bad)):
                self.held[kind][name] = body
                if bad:
                    self.unnoted.add((kind, name))
                else:
                    self.unnoted.discard((kind, name))
                    self.versions[kind][name] = answer.versions[name]
                self._after(kind, name)
        if kind in (CLUSTER, LISTENER):
            for name in answer.removed:
                self.held[kind].pop(name, None)
                self.versions[kind].pop(name, None)
                self.warming.discard(name)
        elif kind == ENDPOINT:
            self.warming -= set(answer.removed)
        self._follow()
        self._check()
        if kind == CLUSTER:
            self.withheld.append(answered)
        else:
            self.up.append(answered.SerializeToString())
        if not self.warming:
            self.up.extend(request.SerializeToString() for request in self.withheld)
            self.withheld = []

    def _after(self, kind: str, name: str) -> None:
        if kind == CLUSTER:
            self.warming.add(name)
        elif kind == ENDPOINT:
            self.warming.discard(name)

    def _follow(self) -> None:
        """Ask for what the clusters and listeners name, and drop what they no longer do."""
        for kind, referred in _REFERENCES.items():
            names = set(self.held[kind]) if kind == CLUSTER else set(self.held[kind].values())
            wanted = self.wanted[referred]
            if names != wanted:
                self._request(referred, names - wanted, wanted - names)
                for name in wanted - names:
                    self.held[referred].pop(name, None)
                    self.versions[referred].pop(name, None)
                self.wanted[referred] = names

    def _check(self) -> None:
        for route in self.held[ROUTE].values():
            assert route.split(":")[0] in self.held[CLUSTER], "a route names a cluster that is gone or not there yet"


@st.composite
def resource_sets(draw: st.DrawFn, bad: bool) -> ResourceSet:
    """A consistent set: routes name clusters of it, listeners name routes of it."""
    number = st.integers(0, 2).map(str)
    clusters = draw(st.dictionaries(st.sampled_from(_NAMES), number, min_size=1))
    endpoints = {name: draw(number) for name in clusters if draw(st.integers(0, 5))}
    to_cluster = st.tuples(st.sampled_from(sorted(clusters)), number).map(":".join)
    routes = draw(st.dictionaries(st.sampled_from(["r1", "r2", "r3"]), to_cluster))
    if bad:
        routes = {name: draw(st.sampled_from([body, body, f"bad {body}"])) for name, body in routes.items()}
        clusters = {name: body if body != "2" or name != "c" else "bad" for name, body in clusters.items()}
        routes = {n: b for n, b in routes.items() if clusters.get(b.split(":")[0].removeprefix("bad ")) != "bad"}
    listeners = draw(st.dictionaries(st.sampled_from(["l1", "l2"]), st.sampled_from(sorted(routes)))) if routes else {}
    return resource_set(cds=clusters, eds=endpoints, lds=listeners, rds=routes)


def _run(data: st.DataObject, bad: bool) -> None:
    clock = ManualClock()
    client = ModelEnvoy(Assembler(), clock)
    published: ResourceSet | None = None
    generation = 0
    for step in data.draw(st.lists(st.sampled_from("sssccpppqqr"), max_size=60)):
        if step == "s":
            client.server_step()
        elif step == "c":
            client.client_step()
        elif step == "q":
            _rest(client, clock)
        elif step == "r":
            client.connect(published, generation)
        else:
            published = data.draw(resource_sets(bad))
            generation += 1
            client.session.update(published, generation)
    if published is None:
        return
    _rest(client, clock)
    assert not client.warming, "no cluster waits for endpoints"
    assert client.session.settled(generation)
    _same(client, published)


def _rest(client: ModelEnvoy, clock: ManualClock) -> None:
    """Let both sides go on until nothing is under way."""
    for _ in range(300):
        clock.time += 0.001
        client.server_step()
        client.client_step()
        if not client.up and not client.down:
            clock.time += 0.2
            client.server_step()
            if not client.down:
                return
    raise AssertionError("the stream does not come to rest")


def _same(client: ModelEnvoy, published: ResourceSet) -> None:
    refused = any(
        resource.body.startswith(b"bad") for resources in published.by_type.values() for resource in resources.values()
    )
    for kind in (CLUSTER, ENDPOINT, LISTENER, ROUTE):
        bodies = {name: resource.body.decode() for name, resource in published.of_type(kind).items()}
        wanted = client.wanted.get(kind, set(bodies))
        expected = {name: body for name, body in bodies.items() if name in wanted and not body.startswith("bad")}
        held, known = client.held[kind], set(expected) - client.unknown
        assert {name: held.get(name) for name in known} == {name: expected[name] for name in known}
        if not refused and kind in (CLUSTER, LISTENER):
            assert set(held) - client.unknown == set(bodies) - client.unknown
    if not refused:
        assert all(status.in_sync for status in client.session.status())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_history_converges(data: st.DataObject) -> None:
    _run(data, bad=False)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_history_with_refusals_converges_on_what_is_good(data: st.DataObject) -> None:
    _run(data, bad=True)
