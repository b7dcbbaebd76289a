"""ext_authz providers of MeshConfig.extensionProviders: which ones can be asked, and how they are lowered.

Used by `mesh_config`. The rules are Istio's (ValidateExtensionProviderEnvoyExtAuthz..., and those that it applies when
it builds the filter); a CUSTOM AuthorizationPolicy names a provider.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from http import HTTPStatus

from headrace.config.documents import Path
from headrace.config.fields import shown
from headrace.config.kinds.istio_names import why_not_fqdn
from headrace.config.kinds.mesh_providers import AuthzBody, AuthzGrpc, AuthzHttp, ExtensionProvider
from headrace.config.schema import Finding, to_camel
from headrace.model.authorization import Authorizer, AuthorizerBody

_AUTHORIZERS = ("envoy_ext_authz_http", "envoy_ext_authz_grpc")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_STATUS = frozenset(str(status.value) for status in HTTPStatus) - {"101", "102", "103", "418", "425", "451"}
"""Status codes that Envoy can answer with in place of 403."""
_HEADER_LISTS = (
    "include_headers_in_check",
    "include_request_headers_in_check",
    "headers_to_upstream_on_allow",
    "headers_to_downstream_on_deny",
    "headers_to_downstream_on_allow",
)
_DEFAULT_TIMEOUT = 600.0
"""Seconds that a request waits for its authorizer, if nothing else is written (Istio's number)."""


def authorizer_findings(provider: ExtensionProvider, path: Path) -> Iterator[Finding]:
    """Judge an ext_authz provider; others give nothing."""
    for field in _AUTHORIZERS:
        spec = getattr(provider, field)
        if spec is None:
            continue
        if not _NAME.fullmatch(provider.name):
            message = f"{shown(provider.name)} cannot name an authorizer"
            yield Finding((*path, "name"), message, "Use 1-63 of a-z, 0-9 and '-', which is not first or last.")
        yield from _judge(spec, (*path, to_camel(field)))


def _judge(spec: AuthzHttp | AuthzGrpc, path: Path) -> Iterator[Finding]:
    if not spec.port:
        yield Finding((*path, "port"), "an authorizer needs a port", "Add port.")
    why = why_not_fqdn(spec.service.rpartition("/")[2])
    if spec.service.count("/") > 1 or spec.service.startswith("/") or why:
        message = f"{shown(spec.service)} is not a service"
        yield Finding((*path, "service"), message, "Write its full host, or namespace/host.")
    if spec.status_on_error and spec.status_on_error not in _STATUS:
        message = f"{shown(spec.status_on_error)} is not a status that Envoy answers with"
        yield Finding((*path, "statusOnError"), message, "Write a number such as 503.")
    if not isinstance(spec, AuthzHttp):
        return
    if spec.path_prefix and not spec.path_prefix.startswith("/"):
        yield Finding((*path, "pathPrefix"), f"{shown(spec.path_prefix)} does not begin with '/'", "Begin it with '/'.")
    for name in _HEADER_LISTS:
        for at, header in enumerate(getattr(spec, name)):
            if header in ("", "*"):
                message = f"{shown(header)} is no header's name, nor the start or the end of one"
                yield Finding((*path, to_camel(name), at), message, "Write a name, or x-* or *-id.")


def lower_authorizers(providers: Iterable[ExtensionProvider]) -> tuple[Authorizer, ...]:
    """The ext_authz providers, in order."""
    found: list[Authorizer] = []
    for provider in providers:
        if provider.envoy_ext_authz_http is not None:
            found.append(_http(provider.name, provider.envoy_ext_authz_http))
        elif provider.envoy_ext_authz_grpc is not None:
            found.append(_grpc(provider.name, provider.envoy_ext_authz_grpc))
    return tuple(found)


def _http(name: str, spec: AuthzHttp) -> Authorizer:
    return Authorizer(
        name=name,
        service=spec.service,
        port=spec.port,
        timeout=_DEFAULT_TIMEOUT if spec.timeout is None else spec.timeout,
        fail_open=spec.fail_open,
        clear_route_cache=spec.clear_route_cache,
        status_on_error=int(spec.status_on_error or 0),
        body=_body(spec.include_request_body_in_check),
        path_prefix=spec.path_prefix,
        check_headers=tuple(spec.include_request_headers_in_check or spec.include_headers_in_check),
        added_headers=tuple(sorted(spec.include_additional_headers_in_check.items())),
        upstream_headers=tuple(spec.headers_to_upstream_on_allow),
        denied_headers=tuple(spec.headers_to_downstream_on_deny),
        allowed_headers=tuple(spec.headers_to_downstream_on_allow),
    )


def _grpc(name: str, spec: AuthzGrpc) -> Authorizer:
    return Authorizer(
        name=name,
        service=spec.service,
        port=spec.port,
        grpc=True,
        timeout=_DEFAULT_TIMEOUT if spec.timeout is None else spec.timeout,
        fail_open=spec.fail_open,
        clear_route_cache=spec.clear_route_cache,
        status_on_error=int(spec.status_on_error or 0),
        body=_body(spec.include_request_body_in_check),
    )


def _body(spec: AuthzBody | None) -> AuthorizerBody | None:
    if spec is None:
        return None
    return AuthorizerBody(spec.max_request_bytes, spec.allow_partial_message, spec.pack_as_bytes)
