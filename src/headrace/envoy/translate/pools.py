"""Pools of model servers: what makes a cluster ask the native module, and with what settings.

Called by `clusters` (load-balancing policy) and for the routes' retries. A pool is an InferencePool, a target with an
InferencePolicy, or a service whose Workloads name an engine. The module's settings stand on the clusters alone: the
filter's never change (`ways_in`), so that editing a policy replaces clusters and no listener, and no stream is drained.
docs/reference/module-config.md describes the settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.extensions.filters.http.upstream_codec.v3 import upstream_codec_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as http_pb2

from headrace.envoy.module_filter import attempt_filter, pool_balancer
from headrace.envoy.translate.cluster_policy import HTTP_OPTIONS
from headrace.envoy.translate.messages import http_filter, packed
from headrace.envoy.translate.overflow import overflow_name
from headrace.envoy.view import Target
from headrace.model.destination import TrafficPolicy
from headrace.model.inference import Admission, Fairness, FairnessKey, InferencePolicy, StreamTimeouts
from headrace.model.service import Protocol, ServicePort
from headrace.model.traffic import Destination, Retries
from headrace.model.workload import Engine

_TELL_IN_HEADERS = frozenset({Engine.VLLM.value, Engine.TRITON.value})
"""Engines that tell their load in the headers of answers, where they are asked (ORCA)."""
_AGAIN_ON = "connect-failure,refused-stream,reset,502,503"
"""While no byte of an answer has reached the client: the server was not reached, went away before its headers, or the
proxy before it said that it did."""
_LONGEST_NAME = 256
"""Bytes of a pool's name that the module takes."""


def apply_pool_balancer(
    cluster: Any, target: Target, port: ServicePort, policy: TrafficPolicy, other: Destination | None
) -> None:
    """Let the module pick the endpoints of a pool's cluster, for every attempt of a request. Only HTTP can be picked
    for, and only endpoints that the control plane assigns; other clusters stay as they are. Where nothing but an engine
    makes the pool, a load balancer that a DestinationRule writes (`policy` holds here) was wanted, and stays. `other`:
    where requests go that do not fit."""
    http = port.protocol.is_http or port.protocol is Protocol.UNDECLARED
    if not (target.is_pool and http and cluster.type == cluster_pb2.Cluster.EDS):
        return
    wanted = policy.load_balancer is not None and policy.load_balancer.chooses
    if wanted and not target.is_declared_pool:
        return
    cluster.ClearField("lb_policy")
    cluster.ClearField("lb_config")
    picker = pool_balancer(pool_settings(target, port, other))
    cluster.load_balancing_policy.policies.add().typed_extension_config.CopyFrom(picker)
    if _sends_again(target):
        _add_attempt_filter(cluster)


def _sends_again(target: Target) -> bool:
    """Whether the policy allows to send a request again until its first token."""
    return target.inference is not None and bool(target.inference.retries)


def _add_attempt_filter(cluster: Any) -> None:
    """Let the module withhold each attempt's answer until its first token, so that the router can still retry."""
    options = http_pb2.HttpProtocolOptions()
    packed_options = cluster.typed_extension_protocol_options[HTTP_OPTIONS]
    if not packed_options.Unpack(options):
        options.explicit_http_config.http_protocol_options.SetInParent()
    codec = http_filter("envoy.filters.http.upstream_codec", upstream_codec_pb2.UpstreamCodec())
    options.http_filters.extend([attempt_filter(), codec])
    packed_options.CopyFrom(packed(options))


def pool_retries(targets: Iterable[Target | None]) -> Retries | None:
    """The retries of a route to these targets where no VirtualService writes any: the fewest that their policies allow
    (None: no policy says)."""
    policies = [target.inference for target in targets if target is not None and target.inference is not None]
    allowed = [policy.retries for policy in policies if policy.retries is not None]
    return Retries(min(allowed), retry_on=_AGAIN_ON) if allowed else None


def pool_settings(target: Target, port: ServicePort, other: Destination | None = None) -> str:
    """The module's settings of one pool, as JSON; the subsets of a service name the same pool and share its state."""
    settings: dict[str, Any] = {"pool": pool_name(target.service.host, port.number)}
    if target.inference is not None:
        settings |= _policy_settings(target.inference, other)
    if _sends_again(target):
        settings["resend"] = 1
    if target.service.engine in _TELL_IN_HEADERS:
        settings["orca"] = True
    return json.dumps(settings, sort_keys=True, separators=(",", ":"))


def pool_name(host: str, port: int) -> str:
    """What the module calls a pool; a host's name may be longer than what it takes."""
    name = f"{host}:{port}"
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{host[:160]}~{hashlib.sha256(host.encode()).hexdigest()}:{port}"


def _policy_settings(policy: InferencePolicy, other: Destination | None) -> dict[str, Any]:
    picking = policy.picking
    found: dict[str, Any] = {"policy": picking.policy.value}
    if picking.session_header:
        found["session_header"] = picking.session_header
    if picking.warmup:
        found["warmup_seconds"] = picking.warmup
    if policy.inject_usage:
        found["usage"] = "inject"
    if policy.timeouts.keepalive:
        found["keepalive_seconds"] = policy.timeouts.keepalive
    timeouts = _timeouts(policy.timeouts)
    if timeouts:
        found["timeouts"] = timeouts
    admission = _admission(policy.admission)
    if admission and policy.timeouts.upload is not None:
        admission["upload_seconds"] = policy.timeouts.upload
    if other is not None:
        admission["overflow"] = {"action": "redirect", "to": overflow_name(other)}
    if admission:
        found["admission"] = admission
    return found


def _timeouts(timeouts: StreamTimeouts) -> dict[str, float]:
    written = {
        "first_token_seconds": timeouts.first_token,
        "between_tokens_seconds": timeouts.between_tokens,
        "total_seconds": timeouts.total,
    }
    return {name: value for name, value in written.items() if value is not None}


def _admission(admission: Admission) -> dict[str, Any]:
    """What is written; an empty mapping where no request can ever wait or be refused."""
    found: dict[str, Any] = {}
    if admission.rate is not None:
        found["rate_per_second"] = admission.rate
        found["burst"] = admission.burst or 1
    if admission.concurrency is not None:
        found["concurrency_per_endpoint"] = admission.concurrency
    if admission.learned_concurrency:
        found["learned_concurrency"] = True
    if admission.pool_concurrency is not None:
        found["concurrency"] = admission.pool_concurrency
    if admission.queue is not None:
        queue = admission.queue
        written = {"requests": queue.depth, "tokens": queue.tokens, "seconds": queue.time}
        found["queue"] = {name: value for name, value in written.items() if value is not None}
    priorities = admission.priorities
    if priorities is not None:
        found["priority_header"] = priorities.header
        found["priorities"] = list(priorities.levels)
        if priorities.starvation is not None:
            found["starvation_seconds"] = priorities.starvation
    if admission.fairness is not None:
        found |= _fairness(admission.fairness)
    deadline = admission.deadline
    if deadline is not None:
        if deadline.header:
            found["first_token_deadline_header"] = deadline.header
        if deadline.default is not None:
            found["first_token_deadline_seconds"] = deadline.default
    return found


def _fairness(fairness: Fairness) -> dict[str, Any]:
    tenant: dict[FairnessKey, dict[str, Any]] = {
        FairnessKey.IDENTITY: {"tenant": {"identity": True}},
        FairnessKey.HEADER: {"tenant_header": fairness.name},
        FairnessKey.JWT_CLAIM: {"tenant": {"claim": fairness.name}},
    }
    found = tenant[fairness.key]
    limits = {"requests": fairness.depth, "tokens": fairness.tokens}
    if any(limits.values()):
        found["tenant_limits"] = {name: value for name, value in limits.items() if value is not None}
    if fairness.weights:
        found["weights"] = dict(fairness.weights)
    if fairness.token_cost is not None:
        found["token_cost"] = fairness.token_cost
    return found
