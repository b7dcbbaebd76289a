"""The filters that ask an external authorizer (ext_authz), where a rule of a CUSTOM policy has matched.

Called by `authorization`. The shadow rules before the filter leave the matching rule's name in dynamic metadata; the
filter is enabled by a name that begins with its authorizer. Settings and defaults are Istio's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envoy.config.core.v3 import base_pb2, config_source_pb2, grpc_service_pb2, http_uri_pb2
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2
from envoy.extensions.filters.network.ext_authz.v3 import ext_authz_pb2 as network_ext_authz_pb2
from envoy.type.matcher.v3 import metadata_pb2, string_pb2, value_pb2
from envoy.type.v3 import http_status_pb2

from headrace.envoy.translate.messages import duration
from headrace.model.authorization import Authorizer

HTTP_AUTHORIZER = "envoy.filters.http.ext_authz"
NETWORK_AUTHORIZER = "envoy.filters.network.ext_authz"
MATCH_PREFIX = "istio-ext-authz"
SHADOW_PREFIX = "istio_ext_authz_"
_POLICY_KEY = f"{SHADOW_PREFIX}shadow_effective_policy_id"


def http_authorizer(authorizer: Authorizer, cluster: str, rbac: str) -> Any:
    """The filter for requests; `rbac` is the filter whose shadow rules decide whether it asks."""
    filter_ = ext_authz_pb2.ExtAuthz(
        failure_mode_allow=authorizer.fail_open,
        transport_api_version=config_source_pb2.ApiVersion.V3,
        clear_route_cache=authorizer.clear_route_cache,
        filter_enabled_metadata=_matched(authorizer, rbac),
    )
    if authorizer.status_on_error:
        filter_.status_on_error.CopyFrom(http_status_pb2.HttpStatus(code=authorizer.status_on_error))
    if authorizer.body is not None:
        filter_.with_request_body.max_request_bytes = authorizer.body.max_bytes
        filter_.with_request_body.allow_partial_message = authorizer.body.allow_partial
        filter_.with_request_body.pack_as_bytes = authorizer.body.as_bytes
    if authorizer.grpc:
        filter_.grpc_service.CopyFrom(_grpc(authorizer, cluster))
        return filter_
    filter_.http_service.CopyFrom(_http(authorizer, cluster))
    if authorizer.check_headers:
        filter_.allowed_headers.CopyFrom(_headers(authorizer.check_headers))
    return filter_


def network_authorizer(authorizer: Authorizer, cluster: str, rbac: str) -> Any:
    """The filter for connections; only for authorizers that speak gRPC."""
    return network_ext_authz_pb2.ExtAuthz(
        stat_prefix="tcp.",
        failure_mode_allow=authorizer.fail_open,
        transport_api_version=config_source_pb2.ApiVersion.V3,
        grpc_service=_grpc(authorizer, cluster),
        filter_enabled_metadata=_matched(authorizer, rbac),
    )


def _matched(authorizer: Authorizer, rbac: str) -> Any:
    """A rule of a policy with this authorizer matched; the `-ns[` behind its name keeps `a` apart from `a-b`."""
    text = string_pb2.StringMatcher(prefix=f"{MATCH_PREFIX}-{authorizer.name}-ns[")
    return metadata_pb2.MetadataMatcher(
        filter=rbac,
        path=[metadata_pb2.MetadataMatcher.PathSegment(key=_POLICY_KEY)],
        value=value_pb2.ValueMatcher(string_match=text),
    )


def _host(cluster: str) -> str:
    return cluster.rpartition("|")[2]


def _grpc(authorizer: Authorizer, cluster: str) -> Any:
    return grpc_service_pb2.GrpcService(
        envoy_grpc=grpc_service_pb2.GrpcService.EnvoyGrpc(cluster_name=cluster, authority=_host(cluster)),
        timeout=duration(authorizer.timeout),
    )


def _http(authorizer: Authorizer, cluster: str) -> Any:
    service = ext_authz_pb2.HttpService(
        path_prefix=authorizer.path_prefix,
        server_uri=http_uri_pb2.HttpUri(
            uri=f"http://{_host(cluster)}", cluster=cluster, timeout=duration(authorizer.timeout)
        ),
    )
    if authorizer.added_headers:
        added = [base_pb2.HeaderValue(key=name, value=value) for name, value in authorizer.added_headers]
        service.authorization_request.headers_to_add.extend(added)
    answer = service.authorization_response
    for field, names in (
        (answer.allowed_upstream_headers, authorizer.upstream_headers),
        (answer.allowed_client_headers, authorizer.denied_headers),
        (answer.allowed_client_headers_on_success, authorizer.allowed_headers),
    ):
        if names:
            field.CopyFrom(_headers(names))
    return service


def _headers(names: Sequence[str]) -> Any:
    patterns = []
    for name in names:
        if name.startswith("*"):
            patterns.append(string_pb2.StringMatcher(suffix=name[1:], ignore_case=True))
        elif name.endswith("*"):
            patterns.append(string_pb2.StringMatcher(prefix=name[:-1], ignore_case=True))
        else:
            patterns.append(string_pb2.StringMatcher(exact=name, ignore_case=True))
    return string_pb2.ListStringMatcher(patterns=patterns)
