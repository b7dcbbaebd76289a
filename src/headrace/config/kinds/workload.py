"""`headrace.dev/v1alpha1 Workload`: a process that Headrace runs with a proxy beside it, or a gateway proxy.

Field names follow Kubernetes' PodSpec and Container where these have the same thing (docs/reference/documents.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Annotated, Any

from pydantic import AliasChoices, BeforeValidator, Field, model_validator

from headrace.config.documents import Document, Path
from headrace.config.fields import (
    Choice,
    DnsName,
    EnumOf,
    HeaderName,
    HeaderValue,
    LabelMap,
    Port,
    Text,
    is_dns_label,
    shown,
    text_of,
    whole,
)
from headrace.config.kinds.proxy_annotation import settings_of, topology_of
from headrace.config.kinds.service import protocol_of
from headrace.config.schema import NO_EFFECT, Finding, Kind, Spec, refuse
from headrace.model.exclusions import ExclusionError, Exclusions
from headrace.model.problem import Severity
from headrace.model.resource import Metadata
from headrace.model.workload import Engine, Probe, Workload, WorkloadPort, WorkloadRole

HOST_ANNOTATION = "headrace.dev/host"
"""Which hosts run a Workload's replicas, in turn: names with commas between."""
MAX_REPLICAS = 1000

_ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]{0,252}")


def _word(value: Any) -> str:
    """A text that can be handed to a process."""
    text = text_of(value, "text")
    if "\0" in text:
        raise refuse("may hold no NUL character")
    return text


def _env_value(value: Any) -> str:
    """A variable's value, which may be a secret: no message shows it."""
    if not isinstance(value, str):
        raise refuse("a variable's value must be text", "Quote it.")
    return _word(value)


def _env_name(value: Any) -> str:
    text = text_of(value, "a variable's name")
    if not _ENV_NAME.fullmatch(text):
        raise refuse(f"{shown(text)} is not a variable's name", "Use letters, digits, '_', '-' and '.'.")
    return text


def _port_reference(value: Any) -> int | str:
    if isinstance(value, str) and not value.isdigit():
        return value
    return whole(1, 65535)(value)


Word = Annotated[str, BeforeValidator(_word)]
PortReference = Annotated[int | str, BeforeValidator(_port_reference)]
Seconds = Annotated[int, BeforeValidator(whole(0, 86_400))]
PositiveSeconds = Annotated[int, BeforeValidator(whole(1, 86_400))]
Threshold = Annotated[int, BeforeValidator(whole(1, 1_000_000))]


class EnvSpec(Spec):
    """A variable: core/v1 EnvVar with a plain value."""

    name: Annotated[str, BeforeValidator(_env_name)]
    value: Annotated[str, Field(repr=False), BeforeValidator(_env_value)] = ""


class PortSpec(Spec):
    """A port as the mesh sees it; `containerPort` is another name for `port`."""

    port: Annotated[Port, Field(validation_alias=AliasChoices("port", "containerPort", "container_port"))]
    name: Text = ""
    protocol: Annotated[str, Choice("TCP")] = "TCP"
    app_protocol: Text = ""


class HeaderSpec(Spec):
    name: HeaderName
    value: HeaderValue = ""


class HttpGet(Spec):
    """core/v1 HTTPGetAction towards the workload itself."""

    path: Word = "/"
    port: PortReference | None = None
    scheme: Annotated[str, Choice("HTTP")] = "HTTP"
    http_headers: list[HeaderSpec] = []


class TcpSocket(Spec):
    """core/v1 TCPSocketAction."""

    port: PortReference | None = None


class Exec(Spec):
    """core/v1 ExecAction."""

    command: Annotated[list[Word], Field(min_length=1, max_length=1000)]


class ProbeSpec(Spec):
    """core/v1 Probe: exactly one of httpGet, tcpSocket and exec."""

    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    exec: Exec | None = None
    initial_delay_seconds: Seconds = 0
    period_seconds: PositiveSeconds = 10
    timeout_seconds: PositiveSeconds = 1
    success_threshold: Threshold = 1
    failure_threshold: Threshold = 3

    @model_validator(mode="after")
    def _one_handler(self) -> ProbeSpec:
        if sum(handler is not None for handler in (self.http_get, self.tcp_socket, self.exec)) != 1:
            raise refuse("a probe needs exactly one of httpGet, tcpSocket and exec", "Write one of them.")
        return self

    @property
    def port(self) -> int | str | None:
        """The port that the probe names."""
        handler = self.http_get or self.tcp_socket
        return handler.port if handler else None


class WorkloadSpec(Spec):
    """headrace.dev/v1alpha1 WorkloadSpec."""

    role: Annotated[WorkloadRole, EnumOf(WorkloadRole)] = WorkloadRole.SIDECAR
    command: Annotated[list[Word], Field(max_length=1000)] = []
    args: Annotated[list[Word], Field(max_length=1000)] = []
    env: Annotated[list[EnvSpec], Field(max_length=1000)] = []
    directory: Word = ""
    ports: Annotated[list[PortSpec], Field(max_length=100)] = []
    labels: LabelMap | None = None
    service_account_name: DnsName | None = None
    replicas: Annotated[int, BeforeValidator(whole(0, MAX_REPLICAS))] = 1
    engine: Annotated[Engine, EnumOf(Engine)] | None = None
    readiness_probe: ProbeSpec | None = None
    liveness_probe: ProbeSpec | None = None
    startup_probe: ProbeSpec | None = None
    termination_grace_period_seconds: Seconds = 30

    def probes(self) -> Iterator[tuple[str, ProbeSpec]]:
        """The probes that are written, by field name."""
        for name in ("readinessProbe", "livenessProbe", "startupProbe"):
            probe = {
                "readinessProbe": self.readiness_probe,
                "livenessProbe": self.liveness_probe,
                "startupProbe": self.startup_probe,
            }[name]
            if probe is not None:
                yield name, probe


_ONLY_PROCESS = ("command", "args", "env", "directory", "engine", "readinessProbe", "livenessProbe", "startupProbe")


def _check(spec: WorkloadSpec, document: Document) -> Iterator[Finding]:
    if not is_dns_label(document.name):
        remedy = "Use 1-63 of a-z, 0-9 and '-'."
        yield Finding(("metadata", "name"), f"{shown(document.name)} is not a name for a Workload", remedy)
    if spec.role is WorkloadRole.GATEWAY:
        for name in _ONLY_PROCESS:
            if document.data["spec"].get(name):
                message = f"'{name}' has no effect: a gateway is a proxy without a process"
                yield Finding(("spec", name), message, "Remove it.", NO_EFFECT, Severity.WARNING)
    elif not spec.command:
        yield Finding(("spec", "command"), "a Workload needs a command", "Add command, or role: gateway.")
    elif not spec.command[0]:
        yield Finding(("spec", "command", 0), "the program's name is empty", "Name a program.")
    yield from _check_capture(document)
    yield from _check_hosts(document)
    yield from _check_ports(spec)
    yield from _check_env(spec)
    for name, probe in spec.probes():
        yield from _check_probe(spec, ("spec", name), probe)


def _check_capture(document: Document) -> Iterator[Finding]:
    """Istio's annotations of what capture leaves alone: a wrong one would open, or close, more than was meant."""
    metadata = document.data.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    if not isinstance(annotations, Mapping):
        return  # not written, or refused elsewhere
    try:
        Exclusions.parse({str(name): str(value) for name, value in annotations.items()})
    except ExclusionError as error:
        yield Finding(("metadata", "annotations", error.annotation), str(error), error.remedy)


def _check_hosts(document: Document) -> Iterator[Finding]:
    for name in _hosts(document):
        if not is_dns_label(name):
            path: Path = ("metadata", "annotations", HOST_ANNOTATION)
            yield Finding(path, f"{shown(name)} is not the name of a host", "Use a-z, 0-9 and '-', commas between.")


def _hosts(document: Document) -> tuple[str, ...]:
    """The hosts that an annotation names; empty where there is none."""
    metadata = document.data.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    text = str(annotations.get(HOST_ANNOTATION) or "") if isinstance(annotations, Mapping) else ""
    return tuple(part.strip() for part in text.split(",")) if text else ()


def _check_ports(spec: WorkloadSpec) -> Iterator[Finding]:
    names: set[str] = set()
    numbers: set[int] = set()
    for at, port in enumerate(spec.ports):
        path: Path = ("spec", "ports", at)
        if port.port in numbers:
            yield Finding((*path, "port"), f"port {port.port} is listed twice", "Remove one.")
        if port.name and not is_dns_label(port.name):
            yield Finding((*path, "name"), f"{shown(port.name)} is not a port name", "Use a-z, 0-9 and '-'.")
        elif port.name in names:
            yield Finding((*path, "name"), f"port name '{port.name}' is used twice", "Rename one.")
        numbers.add(port.port)
        names |= {port.name} - {""}


def _check_env(spec: WorkloadSpec) -> Iterator[Finding]:
    names: set[str] = set()
    for at, variable in enumerate(spec.env):
        if variable.name in names:
            yield Finding(("spec", "env", at, "name"), f"variable '{variable.name}' is set twice", "Remove one.")
        names.add(variable.name)


def _check_probe(spec: WorkloadSpec, path: Path, probe: ProbeSpec) -> Iterator[Finding]:
    handler = "httpGet" if probe.http_get else "tcpSocket"
    named = {port.name: port.port for port in spec.ports if port.name}
    if isinstance(probe.port, str) and probe.port not in named:
        remedy = f"Ports here are {', '.join(named)}." if named else "Name a port in spec.ports, or write its number."
        yield Finding((*path, handler, "port"), f"there is no port named {shown(probe.port)}", remedy)
    if probe.exec is None and probe.port is None and not spec.ports:
        yield Finding((*path, handler, "port"), "the probe has no port to ask", "Add port, or spec.ports.")
    if path[-1] != "readinessProbe" and probe.success_threshold != 1:
        yield Finding((*path, "successThreshold"), f"must be 1 for a {path[-1]}", "Remove it.")


def _lower(meta: Metadata, spec: WorkloadSpec, document: Document) -> Workload:
    return Workload(
        meta=meta,
        command=(*spec.command, *spec.args),
        role=spec.role,
        replicas=spec.replicas,
        env=tuple((variable.name, variable.value) for variable in spec.env),
        directory=_directory(spec.directory, document.file),
        ports=tuple(
            WorkloadPort(port.port, port.name, protocol_of(port.port, port.name, port.app_protocol, "TCP").value)
            for port in spec.ports
        ),
        labels=dict(sorted(spec.labels.items())) if spec.labels is not None else meta.labels,
        topology=topology_of(meta.annotations),
        service_account=spec.service_account_name or "default",
        engine=spec.engine,
        readiness=_probe(spec.readiness_probe, spec),
        liveness=_probe(spec.liveness_probe, spec),
        startup=_probe(spec.startup_probe, spec),
        grace_period=float(spec.termination_grace_period_seconds),
        hosts=_hosts(document),
        proxy=settings_of(meta.annotations),
    )


def _directory(written: str, file: str) -> str:
    """The working directory: absolute, relative to the document's own directory."""
    return str((FilePath(file).absolute().parent / FilePath(written).expanduser()).resolve(strict=False))


def _probe(probe: ProbeSpec | None, spec: WorkloadSpec) -> Probe | None:
    if probe is None:
        return None
    numbers = {port.name: port.port for port in spec.ports}
    get = probe.http_get
    port = numbers.get(probe.port, 0) if isinstance(probe.port, str) else probe.port or 0
    return Probe(
        http_path=get.path if get else "",
        http_headers=tuple((header.name, header.value) for header in get.http_headers) if get else (),
        tcp=probe.tcp_socket is not None,
        command=tuple(probe.exec.command) if probe.exec else (),
        port=port,
        initial_delay=float(probe.initial_delay_seconds),
        period=float(probe.period_seconds),
        timeout=float(probe.timeout_seconds),
        success_threshold=probe.success_threshold,
        failure_threshold=probe.failure_threshold,
    )


KIND = Kind(
    group="headrace.dev", versions=("v1alpha1",), name="Workload", model=WorkloadSpec, lower=_lower, check=_check
)
