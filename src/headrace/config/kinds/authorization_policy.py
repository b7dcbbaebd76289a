"""AuthorizationPolicy (security.istio.io): who may do what to a workload.

Lowered to `model.authorization.AuthorizationPolicy`. The rules are Istio's (ValidateAuthorizationPolicy);
docs/reference/security-policies.md says what a policy does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, model_validator

from headrace.config.documents import Document, Path
from headrace.config.fields import EnumOf, Text, shown
from headrace.config.kinds.authorization_policy_values import (
    Why,
    anything,
    judge_key,
    value_findings,
    why_not_account,
    why_not_block,
    why_not_path,
    why_not_port,
    why_not_trust_domain,
)
from headrace.config.kinds.istio_names import spelled, warning
from headrace.config.kinds.policy_scope import DRY_RUN, ScopedSpec, lower_scope, scope_findings
from headrace.config.schema import Finding, Kind, Spec, refuse
from headrace.model.authorization import HOST, METHOD, PATH, Action, Attribute, AuthorizationPolicy, Rule
from headrace.model.resource import Metadata

_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))
_MOST_RULES = 512
"""Most rules of a policy, and most sources of a rule (the CRD's bounds)."""


class SourceSpec(Spec):
    """Source: all of its fields must match."""

    principals: list[Text] = []
    not_principals: list[Text] = []
    request_principals: list[Text] = []
    not_request_principals: list[Text] = []
    namespaces: list[Text] = []
    not_namespaces: list[Text] = []
    service_accounts: list[Text] = []
    not_service_accounts: list[Text] = []
    ip_blocks: list[Text] = []
    not_ip_blocks: list[Text] = []
    remote_ip_blocks: list[Text] = []
    not_remote_ip_blocks: list[Text] = []
    trust_domains: list[Text] = []
    not_trust_domains: list[Text] = []


class OperationSpec(Spec):
    """Operation: all of its fields must match."""

    hosts: list[Text] = []
    not_hosts: list[Text] = []
    ports: list[Text] = []
    not_ports: list[Text] = []
    methods: list[Text] = []
    not_methods: list[Text] = []
    paths: list[Text] = []
    not_paths: list[Text] = []


class FromSpec(Spec):
    """Rule.From."""

    source: SourceSpec | None = None


class ToSpec(Spec):
    """Rule.To."""

    operation: OperationSpec | None = None


class ConditionSpec(Spec):
    """Condition."""

    key: Text = ""
    values: list[Text] = []
    not_values: list[Text] = []


class RuleSpec(Spec):
    """Rule. `from` is a word of Python's."""

    from_: Annotated[list[FromSpec], Field(alias="from", max_length=_MOST_RULES)] = []
    to: list[ToSpec] = []
    when: list[ConditionSpec] = []

    @model_validator(mode="before")
    @classmethod
    def _no_second_spelling(cls, value: object) -> object:
        if isinstance(value, dict) and "from_" in value:
            raise refuse("unknown field 'from_'", "Did you mean 'from'?")
        return value


class ProviderSpec(Spec):
    """AuthorizationPolicy.ExtensionProvider."""

    name: Text = ""


class AuthorizationPolicySpec(ScopedSpec):
    """AuthorizationPolicy."""

    rules: Annotated[list[RuleSpec], Field(max_length=_MOST_RULES)] = []
    action: Annotated[Action, EnumOf(Action, dict(enumerate(("ALLOW", "DENY", "AUDIT", "CUSTOM"))))] = Action.ALLOW
    provider: ProviderSpec | None = None


_SOURCES: tuple[tuple[str, str, Why], ...] = (
    ("principals", "source.principal", anything),
    ("request_principals", "request.auth.principal", anything),
    ("service_accounts", "source.serviceAccount", why_not_account),
    ("trust_domains", "source.trustDomain", why_not_trust_domain),
    ("namespaces", "source.namespace", anything),
    ("remote_ip_blocks", "remote.ip", why_not_block),
    ("ip_blocks", "source.ip", why_not_block),
)
"""Field of a source → attribute, and how its values are judged; the order is that of the attributes in Envoy."""
_OPERATIONS: tuple[tuple[str, str, Why], ...] = (
    ("hosts", HOST, anything),
    ("methods", METHOD, anything),
    ("paths", PATH, why_not_path),
    ("ports", "destination.port", why_not_port),
)
_NOT_FOR_CUSTOM = ("namespaces", "service_accounts", "trust_domains", "principals", "request_principals")
_KEYS_NOT_FOR_CUSTOM = ("source.namespace", "source.serviceAccount", "source.trustDomain", "source.principal")
_ON_TCP = ("principals", "ip_blocks", "namespaces", "remote_ip_blocks", "service_accounts")


def _check(spec: AuthorizationPolicySpec, document: Document) -> Iterator[Finding]:
    yield from scope_findings(spec)
    yield from _check_action(spec)
    yield from _check_dry_run(spec, document)
    for at, rule in enumerate(spec.rules):
        path: Path = ("spec", "rules", at)
        yield from _check_from(rule, path)
        yield from _check_to(rule, path)
        for number, condition in enumerate(rule.when):
            yield from _check_when(condition, (*path, "when", number))
        if spec.action is Action.CUSTOM:
            yield from _check_custom(rule, path)
        if spec.action is Action.DENY and _is_http_only(rule):
            message = "on TCP ports this DENY rule refuses everything, because it only names attributes of HTTP"
            yield warning(path, message, "Add to.operation.ports, or an attribute that connections have too.")


def _check_action(spec: AuthorizationPolicySpec) -> Iterator[Finding]:
    named = spec.provider is not None and spec.provider.name
    if spec.action in (Action.CUSTOM, Action.DENY) and not spec.rules:
        message = f"a {spec.action} policy without rules never does anything"
        yield Finding(("spec", "rules"), message, "Add rules; an empty one, {}, is for every request.")
    elif spec.action is Action.CUSTOM and not named:
        message = "a CUSTOM policy needs provider.name"
        place: Path = ("spec", "provider", "name") if spec.provider else ("spec", "provider")
        yield Finding(place, message, "Name one of MeshConfig's extensionProviders.")
    if spec.provider is not None and spec.action is not Action.CUSTOM:
        message = f"a provider means nothing to a policy of action {spec.action}"
        yield Finding(("spec", "provider"), message, "Use action: CUSTOM, or take it out.")


def _check_dry_run(spec: AuthorizationPolicySpec, document: Document) -> Iterator[Finding]:
    written = _annotation(document)
    path: Path = ("metadata", "annotations", DRY_RUN)
    if written is None:
        return
    if spec.action not in (Action.ALLOW, Action.DENY):
        yield Finding(path, f"{DRY_RUN} is for ALLOW and DENY policies, not {spec.action}", "Take it out.")
    elif written not in _TRUE | _FALSE:
        yield Finding(path, f"{shown(written)} is neither true nor false", 'Write "true" or "false".')


def _annotation(document: Document) -> str | None:
    metadata = document.data.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    value = annotations.get(DRY_RUN) if isinstance(annotations, dict) else None
    return value if isinstance(value, str) else None


def _check_from(rule: RuleSpec, path: Path) -> Iterator[Finding]:
    if "from_" in rule.model_fields_set and not rule.from_:
        yield Finding((*path, "from"), "must not be empty", "Add a source, or take it out to match every caller.")
    for at, item in enumerate(rule.from_):
        place: Path = (*path, "from", at, "source")
        source = item.source
        if source is None or not _written(source, _SOURCES):
            message = "a source must name something"
            yield Finding(place, message, "Add principals, namespaces, ipBlocks or another field.")
            continue
        yield from _field_findings(source, _SOURCES, place)
        identities = _used(source, ("principals", "namespaces"))
        if identities and _used(source, ("service_accounts",)):
            message = "serviceAccounts exclude principals and namespaces"
            yield Finding((*place, _used(source, ("service_accounts",))[0]), message, "Write two sources.")


def _check_to(rule: RuleSpec, path: Path) -> Iterator[Finding]:
    if "to" in rule.model_fields_set and not rule.to:
        yield Finding((*path, "to"), "must not be empty", "Add an operation, or take it out to match every request.")
    for at, item in enumerate(rule.to):
        place: Path = (*path, "to", at, "operation")
        if item.operation is None or not _written(item.operation, _OPERATIONS):
            yield Finding(place, "an operation must name something", "Add paths, methods, hosts or ports.")
            continue
        yield from _field_findings(item.operation, _OPERATIONS, place)


def _field_findings(spec: Spec, fields: tuple[tuple[str, str, Why], ...], path: Path) -> Iterator[Finding]:
    for name, _, why in fields:
        for own in (name, f"not_{name}"):
            yield from value_findings(getattr(spec, own), why, (*path, spelled(spec, own)))


def _written(spec: Spec, fields: tuple[tuple[str, str, Why], ...]) -> bool:
    return any(getattr(spec, name) or getattr(spec, f"not_{name}") for name, _, _ in fields)


def _used(source: SourceSpec, names: tuple[str, ...]) -> list[str]:
    """Those of the fields, and of their `not` forms, that are set, as documents spell them."""
    every = [own for name in names for own in (name, f"not_{name}")]
    return [spelled(source, own) for own in every if getattr(source, own)]


def _check_when(condition: ConditionSpec, path: Path) -> Iterator[Finding]:
    if not condition.key:
        yield Finding((*path, "key"), "a condition needs a key", "Add key, such as source.ip.")
        return
    why, message, remedy = judge_key(condition.key)
    if message:
        yield Finding((*path, "key"), message, remedy)
    if not condition.values and not condition.not_values:
        yield Finding((*path, "values"), "a condition needs values or notValues", "Add one of them.")
    yield from value_findings(condition.values, why, (*path, "values"))
    yield from value_findings(condition.not_values, why, (*path, "notValues"))


def _check_custom(rule: RuleSpec, path: Path) -> Iterator[Finding]:
    """The authorizer is asked before a request's identities are known, so that CUSTOM rules cannot name them."""
    remedy = "Name it in a DENY or ALLOW policy beside this one."
    for at, item in enumerate(rule.from_):
        for name in _used(item.source, _NOT_FOR_CUSTOM) if item.source else ():
            yield Finding((*path, "from", at, "source", name), "is not supported with action CUSTOM", remedy)
    for at, condition in enumerate(rule.when):
        if condition.key in _KEYS_NOT_FOR_CUSTOM or condition.key.startswith("request.auth."):
            place: Path = (*path, "when", at, "key")
            yield Finding(place, f"{shown(condition.key)} is not supported with action CUSTOM", remedy)


def _is_http_only(rule: RuleSpec) -> bool:
    """Whether a rule names sources or operations, and none that a TCP connection has."""
    sources = [item.source for item in rule.from_ if item.source is not None]
    operations = [item.operation for item in rule.to if item.operation is not None]
    if operations:
        return not any(operation.ports or operation.not_ports for operation in operations)
    return bool(sources) and not any(_used(source, _ON_TCP) for source in sources)


def _lower(meta: Metadata, spec: AuthorizationPolicySpec, document: Document) -> AuthorizationPolicy:
    return AuthorizationPolicy(
        meta=meta,
        scope=lower_scope(spec),
        action=spec.action,
        rules=tuple(_rule(rule) for rule in spec.rules),
        provider=spec.provider.name if spec.provider else "",
        dry_run=meta.annotations.get(DRY_RUN) in _TRUE,
    )


def _rule(spec: RuleSpec) -> Rule:
    return Rule(
        tuple(_attributes(item.source, _SOURCES) for item in spec.from_ if item.source is not None),
        tuple(_attributes(item.operation, _OPERATIONS) for item in spec.to if item.operation is not None),
        tuple(Attribute(item.key, tuple(item.values), tuple(item.not_values)) for item in spec.when),
    )


def _attributes(spec: Spec, fields: tuple[tuple[str, str, Why], ...]) -> tuple[Attribute, ...]:
    found = (Attribute(key, tuple(getattr(spec, name)), tuple(getattr(spec, f"not_{name}"))) for name, key, _ in fields)
    return tuple(item for item in found if item.values or item.not_values)


KIND = Kind(
    group="security.istio.io",
    versions=("v1", "v1beta1"),
    name="AuthorizationPolicy",
    model=AuthorizationPolicySpec,
    lower=_lower,
    check=_check,
    body_required=False,
)
