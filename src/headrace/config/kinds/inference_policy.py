"""`headrace.dev/v1alpha1 InferencePolicy`: how requests to model servers are picked, held and shed.

Lowered to `model.inference.InferencePolicy`. It is attached to Services and InferencePools of its own namespace by
`targetRefs`, as Gateway API policies are; docs/reference/inference-policy.md explains each field.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from headrace.config.documents import Document
from headrace.config.fields import (
    Choice,
    DnsName,
    EnumOf,
    HeaderName,
    NonEmpty,
    Port,
    Text,
    duration,
    is_header_name,
    number,
    shown,
    whole,
)
from headrace.config.kinds.credential import CredentialSpec
from headrace.config.kinds.http_fields import check_subset_name
from headrace.config.schema import NO_EFFECT, Finding, Kind, Spec, refuse
from headrace.model.inference import (
    ENTRY_GROUP,
    POOL_GROUP,
    Admission,
    Deadline,
    Fairness,
    FairnessKey,
    InferencePolicy,
    Overflow,
    OverflowAction,
    Picking,
    PickPolicy,
    Priorities,
    Queue,
    StreamTimeouts,
    TargetRef,
)
from headrace.model.problem import Severity
from headrace.model.resource import Metadata

MAX_TARGETS = 16
MAX_LEVELS = 8
MAX_TENANTS = 1000
LONGEST_NAME = 256
"""Bytes of a name that the native module takes."""
LONGEST_WAIT = 3600.0
"""Seconds: nobody's client waits longer than an hour."""
LONGEST_ANSWER = 86_400.0

Rate = Annotated[float, BeforeValidator(number(0.001, 1_000_000.0))]
Share = Annotated[float, BeforeValidator(number(0.001, 1_000_000.0))]
Burst = Annotated[int, BeforeValidator(whole(1, 1_000_000))]
AUTO = "Auto"
"""Instead of a number of requests: as many as the endpoint is known to run."""


def _number_or_auto(value: object) -> object:
    if value == AUTO:
        return value
    if isinstance(value, str) and not value.isdigit():
        raise refuse(f"{shown(value)} is neither a whole number nor {AUTO}", f"Write a number, or {AUTO}.")
    return whole(1, 1_000_000)(value)


PerEndpoint = Annotated[int | Literal["Auto"], BeforeValidator(_number_or_auto)]
TokenCost = Annotated[float, BeforeValidator(number(0.0, 1000.0))]
Depth = Annotated[int, BeforeValidator(whole(0, 100_000))]
Tokens = Annotated[int, BeforeValidator(whole(1, 1_000_000_000))]
Wait = Annotated[float, BeforeValidator(duration(0.001, LONGEST_WAIT))]
Sign = Annotated[float, BeforeValidator(duration(0.1, LONGEST_WAIT))]
Span = Annotated[float, BeforeValidator(duration(0.001, LONGEST_ANSWER))]


_WITHOUT_SESSIONS = (PickPolicy.ROUND_ROBIN, PickPolicy.RANDOM_TWO)
_GROUPS = {"Service": "", "InferencePool": POOL_GROUP, "ServiceEntry": ENTRY_GROUP}


class ReferenceSpec(Spec):
    """LocalPolicyTargetReference: a Service (group "") or an InferencePool."""

    group: Text = ""
    kind: Annotated[str, Choice("Service", "InferencePool")]
    name: DnsName


class TargetRefSpec(ReferenceSpec):
    """What a policy may be for: also a ServiceEntry, if it says nothing but a credential."""

    kind: Annotated[str, Choice(*_GROUPS)]


class PickingSpec(Spec):
    policy: Annotated[PickPolicy, EnumOf(PickPolicy)] = PickPolicy.PREDICTED_DRAIN
    session_header: HeaderName | None = None
    warmup: Wait | None = None


class QueueSpec(Spec):
    depth: Depth | None = None
    tokens: Tokens | None = None
    time: Wait | None = None


class PrioritiesSpec(Spec):
    header: HeaderName
    levels: Annotated[list[NonEmpty], Field(min_length=1, max_length=MAX_LEVELS)]
    starvation: Wait | None = None


class TenantQueueSpec(Spec):
    """What one tenant may have waiting."""

    depth: Burst | None = None
    tokens: Tokens | None = None


class FairnessSpec(Spec):
    key: Annotated[FairnessKey, EnumOf(FairnessKey)]
    name: NonEmpty | None = None
    weights: Annotated[dict[NonEmpty, Share], Field(max_length=MAX_TENANTS)] = {}
    tenant_queue: TenantQueueSpec | None = None
    token_cost: TokenCost | None = None


class DeadlineSpec(Spec):
    """When the first token is due: what a header says in milliseconds, else `default`."""

    header: HeaderName | None = None
    default: Span | None = None

    @model_validator(mode="after")
    def _says_something(self) -> DeadlineSpec:
        if self.header is None and self.default is None:
            raise refuse("a deadline needs header or default", "Write one of them, or both.")
        return self


class BackendSpec(ReferenceSpec):
    port: Port | None = None
    subset: NonEmpty | None = None

    @model_validator(mode="after")
    def _name_of_subset(self) -> BackendSpec:
        if self.subset is not None:
            check_subset_name(self.subset, ("subset",))
        return self


class OverflowSpec(Spec):
    action: Annotated[OverflowAction, EnumOf(OverflowAction)] = OverflowAction.REJECT
    backend: BackendSpec | None = None


class AdmissionSpec(Spec):
    requests_per_second: Rate | None = None
    burst: Burst | None = None
    concurrency: Burst | None = None
    concurrency_per_endpoint: PerEndpoint | None = None
    queue: QueueSpec | None = None
    priorities: PrioritiesSpec | None = None
    fairness: FairnessSpec | None = None
    first_token_deadline: DeadlineSpec | None = None
    overflow: OverflowSpec = OverflowSpec()


class TimeoutsSpec(Spec):
    first_token: Span | None = None
    between_tokens: Span | None = None
    total: Span | None = None
    keepalive: Sign | None = None
    upload: Span | None = None


class RetriesSpec(Spec):
    """Sending again while no byte of an answer has reached the client: at most once."""

    attempts: Annotated[int, BeforeValidator(whole(0, 1))]


class ObservationSpec(Spec):
    usage: Annotated[str, Choice("Observe", "Inject")] = "Observe"


class InferencePolicySpec(Spec):
    """headrace.dev/v1alpha1 InferencePolicySpec."""

    target_refs: Annotated[list[TargetRefSpec], Field(min_length=1, max_length=MAX_TARGETS)]
    picking: PickingSpec = PickingSpec()
    admission: AdmissionSpec = AdmissionSpec()
    timeouts: TimeoutsSpec = TimeoutsSpec()
    retries: RetriesSpec | None = None
    observation: ObservationSpec = ObservationSpec()
    credential: CredentialSpec | None = None


def _check(spec: InferencePolicySpec, document: Document) -> Iterator[Finding]:
    seen: set[TargetRef] = set()
    for at, target in enumerate(spec.target_refs):
        yield from _check_target(target, ("spec", "targetRefs", at))
        if _target(target) in seen:
            yield Finding(("spec", "targetRefs", at), f"{target.kind} {target.name} is listed twice", "Remove one.")
        seen.add(_target(target))
    if spec.picking.warmup is not None and spec.picking.policy is not PickPolicy.PREDICTED_DRAIN:
        message = f"warmup has no effect: {spec.picking.policy} treats new endpoints as all others"
        remedy = f"Use policy: {PickPolicy.PREDICTED_DRAIN}, or take warmup out."
        yield Finding(("spec", "picking", "warmup"), message, remedy, NO_EFFECT, Severity.WARNING)
    if spec.picking.session_header is not None and spec.picking.policy in _WITHOUT_SESSIONS:
        message = f"sessionHeader goes before {spec.picking.policy}: a session stays with its endpoint"
        message += ", and only its first request takes part in turns or chance"
        remedy = f"Use policy: {PickPolicy.PREDICTED_DRAIN}, or take sessionHeader out."
        yield Finding(("spec", "picking", "sessionHeader"), message, remedy, NO_EFFECT, Severity.WARNING)
    yield from _check_entries(spec)
    yield from _check_names(spec.admission)
    yield from _check_admission(spec.admission)
    yield from _check_timeouts(spec.timeouts, spec.admission)


def _check_timeouts(times: TimeoutsSpec, admission: AdmissionSpec) -> Iterator[Finding]:
    at = ("spec", "timeouts")
    for field, value in (("firstToken", times.first_token), ("betweenTokens", times.between_tokens)):
        if value is not None and times.total is not None and value > times.total:
            remedy = "Make total the longer one."
            yield Finding((*at, field), "is longer than timeouts.total: it can never pass", remedy)
    if times.upload is not None and not admission.model_fields_set - {"burst", "overflow"}:
        message = "upload has no effect: without admission no request takes a place that its upload could hold"
        yield Finding(
            (*at, "upload"), message, "Add a limit to admission, or take upload out.", NO_EFFECT, Severity.WARNING
        )


def _check_target(target: ReferenceSpec, at: tuple[str | int, ...]) -> Iterator[Finding]:
    wanted = _GROUPS[target.kind]
    if target.group != wanted:
        message = f"{target.kind} does not belong to the API group {shown(target.group)}"
        yield Finding((*at, "group"), message, f"Its group is {shown(wanted)}.")


def _check_entries(spec: InferencePolicySpec) -> Iterator[Finding]:
    """A policy for ServiceEntries says nothing but a credential, and is for nothing else: they are no pools."""
    kinds = {target.kind for target in spec.target_refs}
    if "ServiceEntry" not in kinds:
        return
    if len(kinds) > 1:
        yield Finding(("spec", "targetRefs"), "a policy for ServiceEntries is for nothing else", "Write two policies.")
    for field in sorted(spec.model_fields_set - {"target_refs", "credential"}):
        yield Finding(("spec", field), "a ServiceEntry's policy has only a credential", "Take it out.")
    if spec.credential is None:
        yield Finding(("spec",), "a ServiceEntry's policy needs a credential", "Add credential, with secretRef.")


def _check_names(admission: AdmissionSpec) -> Iterator[Finding]:
    """Names that the native module would refuse, and with them the whole cluster."""
    at: tuple[str | int, ...] = ("spec", "admission")
    named: list[tuple[tuple[str | int, ...], str]] = []
    if admission.priorities is not None:
        named += [
            ((*at, "priorities", "levels", index), level) for index, level in enumerate(admission.priorities.levels)
        ]
        for path, level in named:
            if "," in level:
                yield Finding(path, "a level has no ','", "Use another character.")
    if admission.fairness is not None:
        named.append(((*at, "fairness", "name"), admission.fairness.name or ""))
        named += [((*at, "fairness", "weights", tenant), tenant) for tenant in admission.fairness.weights]
    for path, name in named:
        if len(name.encode()) > LONGEST_NAME:
            yield Finding(path, f"is longer than {LONGEST_NAME} bytes", "Use a shorter one.")


def _check_admission(admission: AdmissionSpec) -> Iterator[Finding]:
    at = ("spec", "admission")
    if admission.burst is not None and admission.requests_per_second is None:
        yield Finding((*at, "burst"), "burst needs requestsPerSecond", "Add requestsPerSecond, or take burst out.")
    if admission.concurrency_per_endpoint == AUTO and (admission.queue is None or not admission.queue.depth):
        message = "Auto needs a queue.depth: nothing is refused for the sake of what was only learned"
        yield Finding((*at, "concurrencyPerEndpoint"), message, "Add queue.depth and queue.time, or write a number.")
    if admission.queue is not None:
        yield from _check_queue(admission, admission.queue)
    priorities = admission.priorities
    if priorities is not None and len(set(priorities.levels)) != len(priorities.levels):
        yield Finding((*at, "priorities", "levels"), "a level is listed twice", "Remove one.")
    if admission.fairness is not None:
        yield from _check_fairness(admission.fairness, admission.queue)
    yield from _without_effect(admission)
    yield from _check_overflow(admission.overflow)


def _without_effect(admission: AdmissionSpec) -> Iterator[Finding]:
    """What orders or bounds a queue, where nothing waits or nobody waits so long."""
    at = ("spec", "admission")
    queue, priorities, fairness = admission.queue, admission.priorities, admission.fairness
    if queue is None or not queue.depth:
        useless = {
            "queue": queue is not None and queue.depth is None,
            "priorities": priorities is not None,
            "fairness": fairness is not None and fairness.tenant_queue is None,
        }
        for field in (name for name, given in useless.items() if given):
            message = f"{field} has no effect: nothing waits without a queue.depth"
            remedy = f"Add queue.depth and queue.time, or take {field} out."
            yield Finding((*at, field), message, remedy, NO_EFFECT, Severity.WARNING)
    elif priorities is not None and (priorities.starvation or 0.0) >= (queue.time or LONGEST_ANSWER):
        message = "starvation has no effect: nobody waits longer than queue.time"
        path = (*at, "priorities", "starvation")
        yield Finding(path, message, "Make it the shorter one.", NO_EFFECT, Severity.WARNING)


def _check_queue(admission: AdmissionSpec, queue: QueueSpec) -> Iterator[Finding]:
    at = ("spec", "admission", "queue")
    limits = (admission.requests_per_second, admission.concurrency, admission.concurrency_per_endpoint)
    if limits == (None, None, None):
        message = "nothing would ever wait: there is no requestsPerSecond, concurrency or concurrencyPerEndpoint"
        yield Finding(at, message, "Add one of them, or take queue out.")
    if queue.depth and queue.time is None:
        yield Finding(at, "a queue needs time: how long a request may wait", "Add time, such as 5s.")


def _check_fairness(fairness: FairnessSpec, queue: QueueSpec | None) -> Iterator[Finding]:
    at = ("spec", "admission", "fairness")
    named = fairness.key is not FairnessKey.IDENTITY
    if named and fairness.name is None:
        yield Finding(at, f"key {fairness.key} needs a name", "Add name: the header's or the claim's.")
    elif not named and fairness.name is not None:
        message = "key identity takes no name: it is that of the caller's certificate"
        yield Finding((*at, "name"), message, "Remove it.")
    if fairness.key is FairnessKey.HEADER and fairness.name is not None and not is_header_name(fairness.name):
        yield Finding((*at, "name"), f"{shown(fairness.name)} is not a header's name", "Use letters, digits and '-'.")
    if fairness.key is FairnessKey.IDENTITY:
        for tenant in fairness.weights:
            if tenant != "anonymous" and not tenant.startswith("spiffe://"):
                message = f"the weight has no effect: tenants are SPIFFE ids, and {shown(tenant)} is none"
                remedy = "Write it as spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT."
                yield Finding((*at, "weights", tenant), message, remedy, NO_EFFECT, Severity.WARNING)
    own = fairness.tenant_queue
    if own is not None and (queue is None or not queue.depth):
        message = "no tenant has anything waiting: there is no queue with a depth"
        yield Finding((*at, "tenantQueue"), message, "Add admission.queue with depth and time, or take it out.")
    elif own is not None and own.depth and queue is not None and own.depth > (queue.depth or 0):
        message = "is more than queue.depth: it can never bind"
        yield Finding((*at, "tenantQueue", "depth"), message, "Make it the smaller one.", NO_EFFECT, Severity.WARNING)


def _check_overflow(overflow: OverflowSpec) -> Iterator[Finding]:
    where = ("spec", "admission", "overflow")
    if overflow.action is OverflowAction.REDIRECT and overflow.backend is None:
        yield Finding(where, "Redirect needs a backend", "Add backend, with kind and name.")
    elif overflow.action is OverflowAction.REJECT and overflow.backend is not None:
        yield Finding((*where, "backend"), "Reject takes no backend", "Use action: Redirect, or remove it.")
    elif overflow.backend is not None:
        yield from _check_target(overflow.backend, (*where, "backend"))


def _target(target: ReferenceSpec) -> TargetRef:
    return TargetRef(target.group, target.kind, target.name)


def _lower(meta: Metadata, spec: InferencePolicySpec, document: Document) -> InferencePolicy:
    picking, times = spec.picking, spec.timeouts
    return InferencePolicy(
        meta=meta,
        targets=tuple(_target(target) for target in spec.target_refs if target.kind != "ServiceEntry"),
        picking=Picking(picking.policy, (picking.session_header or "").lower(), picking.warmup),
        admission=_admission(spec.admission),
        timeouts=StreamTimeouts(
            times.first_token, times.between_tokens, times.total, times.keepalive, upload=times.upload
        ),
        retries=spec.retries.attempts if spec.retries else None,
        inject_usage=spec.observation.usage == "Inject",
        credential=spec.credential.lowered() if spec.credential else None,
        entries=tuple(target.name for target in spec.target_refs if target.kind == "ServiceEntry"),
    )


def _admission(spec: AdmissionSpec) -> Admission:
    queue, priorities, fairness, overflow = spec.queue, spec.priorities, spec.fairness, spec.overflow
    backend, deadline = overflow.backend, spec.first_token_deadline
    per_endpoint = spec.concurrency_per_endpoint
    return Admission(
        rate=spec.requests_per_second,
        burst=spec.burst,
        concurrency=per_endpoint if isinstance(per_endpoint, int) else None,
        learned_concurrency=per_endpoint == AUTO,
        pool_concurrency=spec.concurrency,
        queue=Queue(queue.depth, queue.tokens, queue.time) if queue else None,
        priorities=_priorities(priorities) if priorities else None,
        fairness=_fairness(fairness) if fairness else None,
        deadline=Deadline((deadline.header or "").lower(), deadline.default) if deadline else None,
        overflow=_overflow(overflow.action, backend),
    )


def _overflow(action: OverflowAction, backend: BackendSpec | None) -> Overflow:
    if backend is None:
        return Overflow(action)
    return Overflow(action, _target(backend), backend.port or 0, backend.subset or "")


def _priorities(spec: PrioritiesSpec) -> Priorities:
    return Priorities(spec.header.lower(), tuple(spec.levels), spec.starvation)


def _fairness(spec: FairnessSpec) -> Fairness:
    name = spec.name or ""
    header = spec.key is FairnessKey.HEADER
    own = spec.tenant_queue or TenantQueueSpec()
    weights = tuple(sorted(spec.weights.items()))
    return Fairness(spec.key, name.lower() if header else name, weights, own.depth, own.tokens, spec.token_cost)


KIND = Kind(
    group="headrace.dev",
    versions=("v1alpha1",),
    name="InferencePolicy",
    model=InferencePolicySpec,
    lower=_lower,
    check=_check,
)
