"""RequestAuthentication (security.istio.io): which JSON Web Tokens a workload believes.

Lowered to `model.request_authentication.RequestAuthentication`. The rules are Istio's (ValidateRequestAuthentication)
and those of its CRD; docs/reference/security-policies.md says what a policy does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from headrace.config.documents import Document, Path
from headrace.config.fields import Bool, Choice, HeaderValue, NonEmpty, Text, is_dns_name, shown, text_of
from headrace.config.kinds.istio_names import Timespan, at_most_one, is_address, warning
from headrace.config.kinds.policy_scope import DRY_RUN, ScopedSpec, lower_scope, scope_findings
from headrace.config.kinds.request_authentication_keys import KeySetError, as_key_set, has_usable_key, private_keys
from headrace.config.schema import NO_EFFECT, NOT_SUPPORTED, Finding, Kind, Spec, refuse
from headrace.model.jwks import split_uri
from headrace.model.problem import Severity
from headrace.model.request_authentication import JwtRule, RequestAuthentication
from headrace.model.resource import Metadata

KEYS_FILE = "headrace.dev/jwks-file"
"""Annotation: the file, on the proxy's host, with the keys of the rules that bring none themselves."""
MAX_RULES = 4096
MAX_URI = 2048
_STRICT_HEADER = re.compile(r"[-_A-Za-z0-9]{1,256}")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~A-Za-z0-9]{1,256}")


def _strict_header(value: object) -> str:
    text = text_of(value, "a header name")
    if not _STRICT_HEADER.fullmatch(text):
        raise refuse(f"{shown(text)} is not a header name", "Use letters, digits, '-' and '_'.")
    return text


def _header(value: object) -> str:
    text = text_of(value, "a header name")
    if not _TOKEN.fullmatch(text):
        raise refuse(f"{shown(text)} is not a header name", "Use letters, digits and '-'.")
    return text


def _uri(value: object) -> str:
    text = text_of(value, "a URI")
    if len(text) > MAX_URI:
        raise refuse(f"is longer than {MAX_URI} characters")
    if not text:
        return text
    parts = split_uri(text)
    if parts is None:
        raise refuse(f"{shown(text)} is not an http or https URI", "Write https://HOST/PATH.")
    if not (is_dns_name(parts.host) or is_address(parts.host)):
        raise refuse(f"{shown(parts.host)} is not a host name", "Write https://HOST/PATH.")
    return text


class JwtHeaderSpec(Spec):
    """JWTHeader."""

    name: Annotated[str, BeforeValidator(_header)]
    prefix: HeaderValue = ""


class ClaimToHeaderSpec(Spec):
    """ClaimToHeader."""

    header: Annotated[str, BeforeValidator(_strict_header)]
    claim: NonEmpty


class JwtRuleSpec(Spec):
    """JWTRule."""

    issuer: Text = ""
    audiences: list[NonEmpty] = []
    jwks_uri: Annotated[str, BeforeValidator(_uri)] = ""
    jwks: Annotated[Text, Field(repr=False)] = ""
    from_headers: list[JwtHeaderSpec] = []
    from_params: list[NonEmpty] = []
    from_cookies: list[NonEmpty] = []
    output_payload_to_header: Annotated[str, BeforeValidator(_header)] | None = None
    forward_original_token: Bool = False
    output_claim_to_headers: list[ClaimToHeaderSpec] = []
    timeout: Timespan | None = None
    space_delimited_claims: Annotated[list[NonEmpty], Field(max_length=64)] = []
    presence: Annotated[str, Choice("OPTIONAL", "REQUIRED")] = "OPTIONAL"

    @model_validator(mode="before")
    @classmethod
    def _empty_header_is_unset(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("outputPayloadToHeader") == "":
            return {name: item for name, item in value.items() if name != "outputPayloadToHeader"}
        return value

    @model_validator(mode="after")
    def _has_issuer_and_keys(self) -> JwtRuleSpec:
        if not self.issuer and not self.jwks_uri:
            raise refuse("a rule needs an issuer or a jwksUri", "Add issuer: what the tokens' iss says.")
        if self.jwks and self.jwks_uri:
            at_most_one(self, "jwks", "jwks_uri")
        if self.jwks:
            try:
                as_key_set(self.jwks)
            except KeySetError as error:
                remedy = 'Write a JSON Web Key Set: {"keys": [...]}.'
                raise refuse(f"is not a key set: {error}", remedy, at=("jwks",)) from None
        return self


class RequestAuthenticationSpec(ScopedSpec):
    """RequestAuthentication."""

    jwt_rules: Annotated[list[JwtRuleSpec], Field(max_length=MAX_RULES)] = []


def _check(spec: RequestAuthenticationSpec, document: Document) -> Iterator[Finding]:
    yield from scope_findings(spec)
    if DRY_RUN in _annotations(document):
        place: Path = ("metadata", "annotations", DRY_RUN)
        yield Finding(place, f"{DRY_RUN} is for AuthorizationPolicies", "Take it out.")
    file = _annotations(document).get(KEYS_FILE)
    if file is not None and not (isinstance(file, str) and file.startswith("/") and "\0" not in file):
        message = f"{shown(file)} is not an absolute path"
        yield Finding(("metadata", "annotations", KEYS_FILE), message, "Write the file's path from '/' on.")
    needy = 0
    for at, rule in enumerate(spec.jwt_rules):
        path: Path = ("spec", "jwtRules", at)
        if rule.jwks and not has_usable_key(as_key_set(rule.jwks)):
            message = "there is no key by which tokens could be verified: all of the issuer's tokens are refused"
            yield warning((*path, "jwks"), message, "Add a public key (RSA, EC or Ed25519) whose alg fits it.")
        for number in private_keys(rule.jwks):
            message = f"key {number} holds a private or secret part, which is never needed to verify tokens"
            yield warning((*path, "jwks"), message, "Leave only the public keys here.")
        if not rule.jwks and not rule.jwks_uri:
            needy += 1
            if file is None:
                message = "Headrace does not ask an issuer for its keys yet: all of its tokens are refused"
                remedy = f"Add jwksUri or jwks, or the annotation {KEYS_FILE}."
                yield Finding(path, message, remedy, NOT_SUPPORTED, Severity.WARNING)
    if file is not None and not needy:
        message = f"{KEYS_FILE} is for rules without jwks and jwksUri, and there is none"
        place = ("metadata", "annotations", KEYS_FILE)
        yield Finding(place, message, "Take it out.", NO_EFFECT, Severity.WARNING)


def _annotations(document: Document) -> dict[str, object]:
    metadata = document.data.get("metadata")
    found = metadata.get("annotations") if isinstance(metadata, dict) else None
    return found if isinstance(found, dict) else {}


def _lower(meta: Metadata, spec: RequestAuthenticationSpec, document: Document) -> RequestAuthentication:
    file = meta.annotations.get(KEYS_FILE, "")
    return RequestAuthentication(meta, lower_scope(spec), tuple(_rule(rule, file) for rule in spec.jwt_rules))


def _rule(spec: JwtRuleSpec, file: str) -> JwtRule:
    keys = as_key_set(spec.jwks) if spec.jwks else ""
    return JwtRule(
        issuer=spec.issuer,
        audiences=tuple(spec.audiences),
        jwks=keys if keys and has_usable_key(keys) else "",
        jwks_uri=spec.jwks_uri,
        jwks_file="" if spec.jwks or spec.jwks_uri else file,
        headers=tuple((item.name, item.prefix) for item in spec.from_headers),
        params=tuple(spec.from_params),
        cookies=tuple(spec.from_cookies),
        forward=spec.forward_original_token,
        payload_header=spec.output_payload_to_header or "",
        claim_headers=tuple((item.header, item.claim) for item in spec.output_claim_to_headers),
        space_delimited=tuple(spec.space_delimited_claims),
        timeout=5.0 if spec.timeout is None else spec.timeout,
        required=spec.presence == "REQUIRED",
    )


KIND = Kind(
    group="security.istio.io",
    versions=("v1", "v1beta1"),
    name="RequestAuthentication",
    model=RequestAuthenticationSpec,
    lower=_lower,
    check=_check,
    body_required=False,
)
