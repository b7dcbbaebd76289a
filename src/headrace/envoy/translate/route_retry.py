"""When a request is sent again: HTTPRetry as an Envoy RetryPolicy, with Istio's default.

Called by `route_action`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from envoy.config.route.v3 import route_components_pb2 as route_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.extensions.retry.priority.previous_priorities.v3 import previous_priorities_config_pb2

from headrace.envoy.translate.messages import duration, packed, uint32
from headrace.model.traffic import Retries

_DEFAULT_ON = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
_DEFAULT_ATTEMPTS = 2
_INBOUND_ON = "reset-before-request"
_HOST_SELECTION_ATTEMPTS = 5
_BY_CODE = "retriable-status-codes"
_KNOWN_CODES = frozenset(int(status) for status in HTTPStatus)


def retry_policy(retries: Retries | None, *, sticky: bool) -> Any | None:
    """The RetryPolicy; None where attempts are 0. `sticky`: the route hashes, so a retry may go to the same host."""
    if retries is not None and retries.attempts <= 0:
        return None
    policy = route_pb2.RetryPolicy(
        num_retries=uint32(retries.attempts if retries else _DEFAULT_ATTEMPTS),
        retry_on=_DEFAULT_ON,
        host_selection_retry_max_attempts=_HOST_SELECTION_ATTEMPTS,
    )
    avoid = not sticky
    if retries is not None:
        if retries.retry_ignore_previous_hosts is not None:
            avoid = retries.retry_ignore_previous_hosts
        _apply(policy, retries)
    if avoid:
        policy.retry_host_predicate.add(
            name="envoy.retry_host_predicates.previous_hosts",
            typed_config=packed(previous_hosts_pb2.PreviousHostsPredicate()),
        )
    return policy


def inbound_retry_policy(retries: Retries | None) -> Any | None:
    """The RetryPolicy before the application: what Envoy had not written yet goes again, or as the mesh says; None: not
    at all. Time limits, hosts and localities mean nothing there (Istio)."""
    policy = route_pb2.RetryPolicy(num_retries=uint32(_DEFAULT_ATTEMPTS), retry_on=_INBOUND_ON)
    if retries is None:
        return policy
    if retries.attempts <= 0:
        return None
    policy.num_retries.value = retries.attempts
    if retries.retry_on:
        conditions, codes = _conditions(retries.retry_on)
        policy.retry_on = ",".join(conditions)
        policy.retriable_status_codes.extend(codes)
    if retries.backoff is not None:
        policy.retry_back_off.base_interval.CopyFrom(duration(retries.backoff))
    return policy


def _apply(policy: Any, retries: Retries) -> None:
    if retries.retry_on:
        conditions, codes = _conditions(retries.retry_on)
        policy.retry_on = ",".join(conditions)
        policy.retriable_status_codes.extend(codes)
    if retries.per_try_timeout is not None:
        policy.per_try_timeout.CopyFrom(duration(retries.per_try_timeout))
    if retries.retry_remote_localities:
        policy.retry_priority.name = "envoy.retry_priorities.previous_priorities"
        config = previous_priorities_config_pb2.PreviousPrioritiesConfig(update_frequency=2)
        policy.retry_priority.typed_config.CopyFrom(packed(config))
    if retries.backoff is not None:
        policy.retry_back_off.base_interval.CopyFrom(duration(retries.backoff))


def _conditions(text: str) -> tuple[list[str], list[int]]:
    """Envoy's conditions and the status codes of a `retryOn`, which mixes both (Istio's form)."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    codes = [int(word) for word in words if word.isdecimal() and int(word) in _KNOWN_CODES]
    conditions = [word for word in words if not (word.isdecimal() and int(word) in _KNOWN_CODES)]
    if codes and _BY_CODE not in conditions:
        conditions.append(_BY_CODE)
    return conditions, codes
