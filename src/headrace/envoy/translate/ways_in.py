"""Ways into pools: what a connection manager has beyond the others because pools are reached through it.

`hcm` puts it in place; `gateways`, `outbound` and `loopback` ask `way_in` what it is. It depends on whether there are
pools and on two things that policies say (is there a keepalive, do claims tell tenants apart), on nothing else of any
policy: editing one replaces clusters and no listener.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import extension_pb2, substitution_format_string_pb2
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2

from headrace.envoy.module_filter import keepalive_filter, pool_filter
from headrace.envoy.translate.jwt_claims import JWT_FILTER, PAYLOAD
from headrace.envoy.translate.memo import Memo
from headrace.envoy.translate.messages import http_filter, packed
from headrace.envoy.view import Scope, Target
from headrace.model.inference import FairnessKey, InferencePolicy

OVERFLOW_HEADER = "x-headrace-overflow"
"""By this request header the module asks for the route of what does not fit into a pool."""
CLAIMS = "headrace.claims"
"""Where the claims of a verified JWT stand: key of jwt_authn's metadata (`payload_in_metadata` of its providers), and
the filter state in which the module reads them, as JSON."""
_CLAIMS_FORMAT = f"%DYNAMIC_METADATA({JWT_FILTER}:{PAYLOAD})%"
POOL_LOG_FIELDS = (
    "pool",
    "redirected_from",
    "model",
    "endpoint",
    "reason",
    "outcome",
    "attempts",
    "queue_ms",
    "ttft_ms",
    "tokens_in",
    "tokens_out",
)
"""What the JSON access log says of requests to pools: keys of the module's dynamic metadata."""


@dataclass(frozen=True, slots=True)
class WayIn:
    """`pools`: some are reached through it, by the native module; `claims`: some tell tenants apart by a claim;
    `keepalive`: some tell clients that wait that they are not forgotten."""

    pools: bool = False
    claims: bool = False
    keepalive: bool = False

    def filters(self, *, logged: bool) -> list[Any]:
        """The HTTP filters directly before the router; `logged`: an access log may read what is known of requests."""
        if not self.pools:
            return []
        before = [_claims_filter()] * self.claims + [keepalive_filter()] * self.keepalive
        return [*before, pool_filter(metadata=logged)]

    def early_mutations(self) -> list[Any]:
        """What is done to a request before it is routed: nobody may ask for the route of an overflow by himself."""
        if not self.pools:
            return []
        config = header_mutation_pb2.HeaderMutation(
            mutations=[mutation_rules_pb2.HeaderMutation(remove=OVERFLOW_HEADER)]
        )
        name = "envoy.http.early_header_mutation.header_mutation"
        return [extension_pb2.TypedExtensionConfig(name=name, typed_config=packed(config))]

    def log_fields(self) -> dict[str, str]:
        """Further fields of the default JSON access log, with Envoy's operators."""
        return {name: f"%DYNAMIC_METADATA(headrace:{name})%" for name in POOL_LOG_FIELDS} if self.pools else {}


NO_WAY_IN = WayIn()


def way_in(memo: Memo, scope: Scope, module: bool) -> WayIn:
    """What the connection managers of the outbound side are for proxies of the scope, with the native module or
    without it."""
    if not module:
        return NO_WAY_IN
    return memo.latest("way in", scope.key, scope.targets, _way_in, scope.targets)


def _way_in(targets: tuple[Target, ...]) -> WayIn:
    policies = [target.inference for target in targets if target.inference is not None]
    return WayIn(
        pools=any(target.is_pool for target in targets),
        claims=any(_asks_claims(policy) for policy in policies),
        keepalive=any(policy.timeouts.keepalive for policy in policies),
    )


def _asks_claims(policy: InferencePolicy) -> bool:
    fairness = policy.admission.fairness
    return fairness is not None and fairness.key is FairnessKey.JWT_CLAIM


def _claims_filter() -> Any:
    """Modules cannot read structures of dynamic metadata, so the claims go into a filter state as JSON."""
    text = substitution_format_string_pb2.SubstitutionFormatString(omit_empty_values=True)
    text.text_format_source.inline_string = _CLAIMS_FORMAT
    value = value_pb2.FilterStateValue(
        object_key=CLAIMS, factory_key="envoy.string", format_string=text, skip_if_empty=True
    )
    return http_filter(CLAIMS, set_filter_state_pb2.Config(on_request_headers=[value]))
