"""What one replica must be: an assignment of the control plane, parsed once into frozen types.

Made by `agent.host` from the wire (and by `agent.children` from what an earlier agent kept), read by every part of the
agent that runs a replica.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace.model.identity import Identity
from headrace.model.proxy_config import UNSET, ProxySettings
from headrace.model.traffic import Pairs
from headrace.model.workload import Probe, WorkloadPort, WorkloadRole
from headrace.wire import agent_v1_pb2 as wire

_ID_LIMIT = 512
_DEFAULT_GRACE = 30.0


class SpecError(ValueError):
    """An assignment that this agent cannot run; the message says why, for people."""


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """One replica as the control plane wants it. Times in seconds.

    `command` is empty for gateways. `message` is the assignment as it came, kept so that a restarted agent can go on
    without the control plane; environments may hold secrets, so it stays out of reprs.
    """

    id: str
    namespace: str
    workload: str
    index: int
    role: WorkloadRole
    identity: Identity
    spec_hash: str
    command: tuple[str, ...] = ()
    env: Pairs = field(default=(), repr=False)
    directory: str = ""
    engine: str = ""
    ports: tuple[WorkloadPort, ...] = ()
    readiness: Probe | None = None
    liveness: Probe | None = None
    startup: Probe | None = None
    grace_period: float = _DEFAULT_GRACE
    bind: str = "127.0.0.1"
    annotations: Pairs = ()
    proxy: ProxySettings = UNSET
    message: bytes = field(default=b"", repr=False)

    @property
    def name(self) -> str:
        """The replica's name without its namespace: `chat-v1-0`."""
        return self.id.rpartition("/")[2]

    @property
    def is_gateway(self) -> bool:
        return self.role is WorkloadRole.GATEWAY

    def port_numbers(self) -> tuple[int, ...]:
        """The numbers of the workload's ports, each once, in the document's order."""
        return tuple(dict.fromkeys(port.number for port in self.ports))


def parse_replica(replica: wire.Replica) -> ReplicaSpec:
    """The spec that a wire message stands for; SpecError where it cannot be run."""
    if not replica.id or len(replica.id) > _ID_LIMIT or not replica.id.isprintable():
        raise SpecError(f"replica id {replica.id[:80]!r} is empty, longer than {_ID_LIMIT} or unprintable")
    try:
        role = WorkloadRole(replica.role)
        identity = Identity.parse(replica.identity)
    except ValueError as error:
        raise SpecError(f"replica {replica.id}: {error}") from None
    if role is WorkloadRole.SIDECAR and not replica.command:
        raise SpecError(f"replica {replica.id}: no command to run; set spec.command of its Workload")
    if any("\0" in text for text in (*replica.command, replica.directory)):
        raise SpecError(f"replica {replica.id}: its command or directory holds a NUL character")
    for port in replica.ports:
        if not 0 < port.number < 65536:
            raise SpecError(f"replica {replica.id}: port {port.number} is not between 1 and 65535")
    return ReplicaSpec(
        id=replica.id,
        namespace=replica.namespace,
        workload=replica.workload,
        index=replica.index,
        role=role,
        identity=identity,
        spec_hash=replica.spec_hash,
        command=tuple(replica.command),
        env=tuple((variable.name, variable.value) for variable in replica.env),
        directory=replica.directory,
        engine=replica.engine,
        ports=tuple(WorkloadPort(port.number, port.name, port.protocol) for port in replica.ports),
        readiness=_probe(replica.readiness) if replica.HasField("readiness") else None,
        liveness=_probe(replica.liveness) if replica.HasField("liveness") else None,
        startup=_probe(replica.startup) if replica.HasField("startup") else None,
        grace_period=replica.grace_period_ms / 1000,
        bind=replica.bind or "127.0.0.1",
        annotations=tuple(sorted(replica.annotations.items())),
        proxy=ProxySettings(
            replica.concurrency if replica.HasField("concurrency") else None,
            tuple((variable.name, variable.value) for variable in replica.proxy_env),
        ),
        message=replica.SerializeToString(deterministic=True),
    )


def parse_message(message: bytes) -> ReplicaSpec:
    """The spec of a serialised wire.Replica; SpecError where it is none."""
    try:
        replica = wire.Replica.FromString(message)
    except Exception as error:  # protobuf raises DecodeError, which is not exported by its public modules' types
        raise SpecError(f"not a replica: {type(error).__name__}") from None
    return parse_replica(replica)


def _probe(probe: wire.Probe) -> Probe:
    return Probe(
        http_path=probe.http_path,
        http_headers=tuple((header.name, header.value) for header in probe.http_headers),
        tcp=probe.tcp,
        command=tuple(probe.command),
        port=probe.port,
        initial_delay=probe.initial_delay_ms / 1000,
        period=(probe.period_ms or 10_000) / 1000,
        timeout=(probe.timeout_ms or 1_000) / 1000,
        success_threshold=probe.success_threshold or 1,
        failure_threshold=probe.failure_threshold or 3,
    )
