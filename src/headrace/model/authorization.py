"""What an AuthorizationPolicy says (istio.security.v1.AuthorizationPolicy), and the authorizers that MeshConfig names.

Made by `config.kinds.authorization_policy` and `config.kinds.mesh_config`, read by `registry.policies` and
`envoy.translate.authorization`. Field meanings are Istio's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from headrace.model.policy import PolicyScope
from headrace.model.resource import Metadata
from headrace.model.traffic import Pairs


class Action(StrEnum):
    """AuthorizationPolicy.Action."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    AUDIT = "AUDIT"
    CUSTOM = "CUSTOM"


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute that a rule looks at: it must have one of `values` (none: any), and none of `not_values`. `key` is
    that of a condition (`source.ip`, `request.headers[x-a]`), or METHOD, PATH or HOST."""

    key: str
    values: tuple[str, ...] = ()
    not_values: tuple[str, ...] = ()


METHOD = ":method"
PATH = ":path"
HOST = ":authority"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: it matches where one of `sources`, one of `operations` and all `conditions` match. A source or an
    operation is a conjunction of attributes; an empty list of them matches everything."""

    sources: tuple[tuple[Attribute, ...], ...] = ()
    operations: tuple[tuple[Attribute, ...], ...] = ()
    conditions: tuple[Attribute, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class AuthorizationPolicy:
    """An AuthorizationPolicy. `provider` names the authorizer of a CUSTOM policy; `dry_run`: it is evaluated and
    reported, and refuses nothing."""

    meta: Metadata
    scope: PolicyScope
    action: Action = Action.ALLOW
    rules: tuple[Rule, ...] = ()
    provider: str = ""
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class AuthorizerBody:
    """EnvoyExternalAuthorizationRequestBody: how much of the body the authorizer sees, in bytes."""

    max_bytes: int
    allow_partial: bool = False
    as_bytes: bool = False


@dataclass(frozen=True, slots=True)
class Authorizer:
    """An ext_authz provider of MeshConfig. `service` is a host, or `namespace/host`; `grpc`: it speaks Envoy's gRPC
    service, else plain HTTP. `timeout` in seconds; `status_on_error` 0: 403. The header lists hold names, or parts of
    names with `*` before or behind, and are for HTTP only."""

    name: str
    service: str
    port: int
    grpc: bool = False
    timeout: float = 600.0
    fail_open: bool = False
    clear_route_cache: bool = False
    status_on_error: int = 0
    body: AuthorizerBody | None = None
    path_prefix: str = ""
    check_headers: tuple[str, ...] = ()
    added_headers: Pairs = ()
    upstream_headers: tuple[str, ...] = ()
    denied_headers: tuple[str, ...] = ()
    allowed_headers: tuple[str, ...] = ()
