"""What runs: a Workload (a process and its replicas, started by Headrace), or a described Pod or WorkloadEntry.

Made by `config.kinds`; `registry` makes endpoints of them, the control plane assigns Workloads to agents.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from headrace.model.mesh import GatewayTopology
from headrace.model.proxy_config import UNSET, ProxySettings
from headrace.model.resource import Labels, Metadata
from headrace.model.traffic import Pairs


class Engine(StrEnum):
    """The model server that a Workload runs (contract.md); decides explicit timeouts."""

    VLLM = "vllm"
    SGLANG = "sglang"
    TGI = "tgi"
    TRTLLM = "trtllm"
    TRITON = "triton"
    LLAMACPP = "llamacpp"
    OLLAMA = "ollama"
    OPENAI = "openai"


@dataclass(frozen=True, slots=True)
class WorkloadPort:
    """A port of the workload as the mesh sees it. The process itself listens on $PORT (loopback capture)."""

    number: int
    name: str = ""
    protocol: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """A Kubernetes probe: exactly one of http_path, tcp and command. Times in seconds; `port` 0: the first port."""

    http_path: str = ""
    http_headers: Pairs = ()
    tcp: bool = False
    command: tuple[str, ...] = ()
    port: int = 0
    initial_delay: float = 0.0
    period: float = 10.0
    timeout: float = 1.0
    success_threshold: int = 1
    failure_threshold: int = 3


class WorkloadRole(StrEnum):
    """SIDECAR: a process with a proxy beside it. GATEWAY: a proxy only, at the mesh's edge."""

    SIDECAR = "sidecar"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """A `headrace.dev/v1alpha1 Workload`.

    `labels` go onto every replica (endpoint labels); `command` may use `$(NAME)` of its environment;
    `directory` is the working directory (absolute; default: that of the document). `grace_period` seconds bound the
    drain of one replica (Kubernetes' terminationGracePeriodSeconds). `hosts` run the replicas in turn (none named: the
    host of the control plane does). `topology`: what stands before this gateway (None: what the mesh says).
    """

    meta: Metadata
    command: tuple[str, ...]
    role: WorkloadRole = WorkloadRole.SIDECAR
    replicas: int = 1
    env: Pairs = field(default=(), repr=False)
    directory: str = ""
    ports: tuple[WorkloadPort, ...] = ()
    labels: Labels | None = None
    service_account: str = "default"
    engine: Engine | None = None
    readiness: Probe | None = None
    liveness: Probe | None = None
    startup: Probe | None = None
    grace_period: float = 30.0
    hosts: tuple[str, ...] = ()
    topology: GatewayTopology | None = None
    proxy: ProxySettings = UNSET


@dataclass(frozen=True, slots=True, eq=False)
class StaticWorkload:
    """A Pod or WorkloadEntry: a workload that somebody else runs (or that only a document describes).

    `ports` maps port names to numbers (WorkloadEntry.ports; container ports of a Pod by name). `proxied`: a sidecar
    stands before it (Pods unless `sidecar.istio.io/inject: "false"`; WorkloadEntries only with a service account).
    """

    meta: Metadata
    address: str
    labels: Labels
    service_account: str = ""
    ports: tuple[WorkloadPort, ...] = ()
    weight: int = 0
    locality: str = ""
    network: str = ""
    proxied: bool = False
    ready: bool = True
    topology: GatewayTopology | None = None
