"""A delta discovery client for tests: speaks to a `Session` and keeps what it was told, as Envoy would."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from envoy.service.discovery.v3 import discovery_pb2

from headrace.envoy.resources import CLUSTER, ENDPOINT, LISTENER, ROUTE, ResourceSet, XdsResource
from headrace.envoy.xds.assembly import Assembler
from headrace.envoy.xds.session import Session

SHORT = {CLUSTER: "CDS", ENDPOINT: "EDS", LISTENER: "LDS", ROUTE: "RDS"}


class ManualClock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time + 1_700_000_000

    def monotonic(self) -> float:
        return self.time


def resource_set(**types: Mapping[str, str]) -> ResourceSet:
    """`resource_set(cds={"a": "1"})`: resources whose body is the given word."""
    urls = {"cds": CLUSTER, "eds": ENDPOINT, "lds": LISTENER, "rds": ROUTE}
    return ResourceSet.collect(
        XdsResource.of(urls[kind], name, body.encode()) for kind, names in types.items() for name, body in names.items()
    )


@dataclass
class Answer:
    """A response as a test reads it."""

    type_url: str
    nonce: str
    resources: dict[str, str]
    removed: tuple[str, ...]
    versions: dict[str, str]

    def __str__(self) -> str:
        words = [SHORT.get(self.type_url, self.type_url)]
        words += [f"{name}={body}" for name, body in self.resources.items()]
        words += [f"-{name}" for name in self.removed]
        return " ".join(words)


def parse(message: bytes) -> Answer:
    response = discovery_pb2.DeltaDiscoveryResponse.FromString(message)
    for entry in response.resources:
        assert entry.resource.type_url == response.type_url
    return Answer(
        response.type_url,
        response.nonce,
        {entry.name: entry.resource.value.decode() for entry in response.resources},
        tuple(response.removed_resources),
        {entry.name: entry.version for entry in response.resources},
    )


@dataclass
class Client:
    """One stream's client: `take` returns what is sent now as words and remembers it until `ack` or `nack`."""

    session: Session
    clock: ManualClock
    open: list[Answer] = field(default_factory=list)
    published: int = 0

    @classmethod
    def connect(cls, clock: ManualClock, assembler: Assembler | None = None) -> Client:
        return cls(Session(assembler or Assembler(), clock), clock)

    def publish(self, resources: ResourceSet) -> Client:
        self.published += 1
        self.session.update(resources, self.published)
        return self

    def ask(
        self,
        type_url: str,
        subscribe: Iterable[str] = (),
        unsubscribe: Iterable[str] = (),
        versions: Mapping[str, str] | None = None,
    ) -> Client:
        request = discovery_pb2.DeltaDiscoveryRequest(
            type_url=type_url,
            resource_names_subscribe=list(subscribe),
            resource_names_unsubscribe=list(unsubscribe),
            initial_resource_versions=dict(versions or {}),
        )
        self.session.receive(request.SerializeToString())
        return self

    def take(self) -> list[str]:
        answers = [parse(response.message()) for response in self.session.outgoing()]
        self.open += answers
        return [str(answer) for answer in answers]

    def ack(self, kind: str = "") -> Client:
        """Acknowledge everything that is open, or one type ("CDS")."""
        for answer in self._pop(kind):
            self._reply(answer, None)
        return self

    def nack(self, message: str, kind: str = "") -> Client:
        for answer in self._pop(kind):
            self._reply(answer, message)
        return self

    def _pop(self, kind: str) -> list[Answer]:
        chosen = [answer for answer in self.open if not kind or SHORT[answer.type_url] == kind]
        assert chosen, f"nothing of {kind or 'any type'} to answer"
        self.open = [answer for answer in self.open if answer not in chosen]
        return chosen

    def _reply(self, answer: Answer, error: str | None) -> None:
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=answer.type_url, response_nonce=answer.nonce)
        if error is not None:
            request.error_detail.message = error
            request.error_detail.code = 13
        self.session.receive(request.SerializeToString())
