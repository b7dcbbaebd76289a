"""What a RequestAuthentication says (istio.security.v1.RequestAuthentication): which JSON Web Tokens are believed.

Made by `config.kinds.request_authentication`, read by `registry.policies` and `envoy.translate.jwt_authn`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace.model.policy import PolicyScope
from headrace.model.resource import Metadata
from headrace.model.traffic import Pairs


@dataclass(frozen=True, slots=True)
class JwtRule:
    """JWTRule. The issuer's keys are `jwks` (a JSON Web Key Set), else fetched from `jwks_uri`, else read by the proxy
    from `jwks_file`; with none of them every token is refused. `headers` are (name, prefix) pairs; with no place at
    all, tokens are looked for where RFC 6750 has them. `timeout` seconds bound one fetch. `claim_headers` are
    (header, claim) pairs. `required`: a request without this rule's token is refused, whatever other tokens it has."""

    issuer: str = ""
    audiences: tuple[str, ...] = ()
    jwks: str = field(default="", repr=False)
    jwks_uri: str = ""
    jwks_file: str = ""
    headers: Pairs = ()
    params: tuple[str, ...] = ()
    cookies: tuple[str, ...] = ()
    forward: bool = False
    payload_header: str = ""
    claim_headers: Pairs = ()
    space_delimited: tuple[str, ...] = ()
    timeout: float = 5.0
    required: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class RequestAuthentication:
    """A RequestAuthentication: a request with an invalid token is refused, one without a token passes."""

    meta: Metadata
    scope: PolicyScope
    rules: tuple[JwtRule, ...] = ()
