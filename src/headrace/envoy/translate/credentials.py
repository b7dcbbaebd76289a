"""Credentials that the proxy puts into requests on their way to the server, so that applications never hold them.

Called by `clusters` (the filter of a cluster) and `translate` (the secrets). The filter stands on the cluster, after
routing: every attempt, copy and redirected request gets the credential of the server that it goes to, and no other
server sees it. The value comes as a secret over ADS, so that a new one replaces no cluster and drains no connection.
A policy whose Secret cannot be used gives an empty secret: Envoy then refuses requests (401) rather than to send them
without, and a Secret that was deleted is no longer used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from envoy.config.core.v3 import base_pb2, extension_pb2
from envoy.extensions.filters.http.credential_injector.v3 import credential_injector_pb2
from envoy.extensions.filters.http.upstream_codec.v3 import upstream_codec_pb2
from envoy.extensions.http.injected_credentials.generic.v3 import generic_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as http_pb2

from headrace.envoy.resources import SECRET, XdsResource
from headrace.envoy.secrets import SecretResource
from headrace.envoy.translate.cluster_policy import HTTP_OPTIONS
from headrace.envoy.translate.memo import Memo
from headrace.envoy.translate.messages import ads, http_filter, packed, serialized
from headrace.envoy.view import Scope, Target
from headrace.model.credential import Credential, UnusableCredentialError
from headrace.model.inference import InferencePolicy
from headrace.model.security import Secret
from headrace.model.service import Protocol, ServicePort

_INJECTOR = "envoy.filters.http.credential_injector"
_GENERIC = "envoy.http.injected_credentials.generic"


def apply_credential(cluster: Any, target: Target, port: ServicePort) -> None:
    """Let the cluster's requests have the credential of the target's policy. A port of HTTPS has requests where the
    proxy originates its TLS (Istio's pattern for egress); where the application does, they cannot be seen."""
    policy = target.injects
    if policy is None or policy.credential is None:
        return
    originated = port.protocol is Protocol.HTTPS and cluster.HasField("transport_socket")
    if not (port.protocol.is_http or port.protocol is Protocol.UNDECLARED or originated):
        return
    options = http_pb2.HttpProtocolOptions()
    held = cluster.typed_extension_protocol_options[HTTP_OPTIONS]
    if not held.Unpack(options):
        options.explicit_http_config.http_protocol_options.SetInParent()
    if not options.http_filters:
        codec = http_filter("envoy.filters.http.upstream_codec", upstream_codec_pb2.UpstreamCodec())
        options.http_filters.append(codec)
    options.http_filters.insert(len(options.http_filters) - 1, _injector(policy, policy.credential))
    held.CopyFrom(packed(options))


def _injector(policy: InferencePolicy, credential: Credential) -> Any:
    reference = secret_pb2.SdsSecretConfig(name=_resource_name(policy), sds_config=ads(None))
    generic = generic_pb2.Generic(credential=reference, header=credential.header)
    source = extension_pb2.TypedExtensionConfig(name=_GENERIC, typed_config=packed(generic))
    return http_filter(_INJECTOR, credential_injector_pb2.CredentialInjector(overwrite=True, credential=source))


def _resource_name(policy: InferencePolicy) -> str:
    """The SECRET resource of a policy's credential."""
    return f"credential://{policy.meta.namespace}/{policy.meta.name}"


def resources(memo: Memo, scope: Scope, salt: bytes) -> tuple[XdsResource, ...]:
    """The secrets of the credentials that the scope's clusters inject. `salt` keeps their versions from telling
    anything of the values."""
    key = (scope.targets, tuple(scope.secrets.values()), salt)
    return memo.latest("credentials", scope.key, key, _build, scope, salt)


def _build(scope: Scope, salt: bytes) -> tuple[XdsResource, ...]:
    policies = {target.injects for target in scope.targets if target.injects is not None}
    found = {_resource_name(policy): _value(policy, scope.secrets) for policy in policies}
    return tuple(_secret(name, found[name], salt) for name in sorted(found))


def _value(policy: InferencePolicy, secrets: Mapping[str, Secret]) -> bytes:
    credential = policy.credential
    secret = secrets.get(credential.secret) if credential is not None else None
    if credential is None or secret is None:
        return b""
    try:
        return credential.header_value(secret.data)
    except UnusableCredentialError:
        return b""


def _secret(name: str, value: bytes, salt: bytes) -> XdsResource:
    generic = secret_pb2.GenericSecret(secret=base_pb2.DataSource(inline_bytes=value))
    version = hashlib.blake2b(value, digest_size=8, key=salt).hexdigest()
    return SecretResource(SECRET, name, serialized(secret_pb2.Secret(name=name, generic_secret=generic)), version)
