"""TLS sockets of the mesh: what a client sidecar offers, what a server sidecar demands, what a gateway terminates.

Called by `clusters` (upstream), `inbound` and `gateways` (downstream). Keys never pass through here: certificates are
SDS references. The proxy's own certificate comes from its agent over the bootstrap's static cluster `agent`; Secrets
that a Gateway or DestinationRule names come over ADS as `kubernetes://NAME` (Istio's resource name), files as
`file-cert:...` and `file-root:...` (see `file_secrets`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envoy.config.core.v3 import backoff_pb2, base_pb2, config_source_pb2, grpc_service_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from envoy.type.matcher.v3 import string_pb2

from headrace.envoy.translate.file_secrets import file_secret
from headrace.envoy.translate.messages import ads, boolean, duration, packed
from headrace.model.gateway import CA_SUFFIX, ServerTls, ServerTlsMode
from headrace.model.mesh import MeshConfig

AGENT_CLUSTER = "agent"
"""The bootstrap's static cluster: the agent's socket, which serves ADS and SDS."""
WORKLOAD_SECRET = "default"  # noqa: S105 - a resource name, as in Istio
ROOT_SECRET = "ROOTCA"  # noqa: S105 - a resource name, as in Istio
BUILTIN = "builtin://"
"""The credential that is the proxy's own certificate of the mesh (Istio's name)."""
TLS_SOCKET = "envoy.transport_sockets.tls"
_RECONNECT_FIRST = 0.1
_RECONNECT_LIMIT = 1.0
"""Seconds until a lost stream of secrets is opened again, as for discovery (`envoy.bootstrap`)."""

MESH_ALPN = ("istio-peer-exchange", "istio")
"""What a client sidecar offers; PERMISSIVE servers tell mesh traffic from other TLS by it (Istio's names)."""
CALLERS_ALPN = ("istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2")
"""All that a client of the mesh may offer, Istio's own included: who offers none of it is none."""
MESH_ALPN_H2 = (*MESH_ALPN, "h2")
HTTP_ALPN = ("h2", "http/1.1")
TCP_ALPN = ("istio-peer-exchange", "h2", "http/1.1")


def _version(name: str) -> int:
    """Envoy's number of a protocol version in Istio's spelling (`TLSV1_3`)."""
    return int(common_pb2.TlsParameters.TlsProtocol.Value(name.replace("TLSV", "TLSv")))


def agent_secret(name: str) -> Any:
    """A reference to a secret that the agent serves (`default`, `ROOTCA`)."""
    back_off = backoff_pb2.BackoffStrategy(
        base_interval=duration(_RECONNECT_FIRST), max_interval=duration(_RECONNECT_LIMIT)
    )
    service = grpc_service_pb2.GrpcService(
        envoy_grpc=grpc_service_pb2.GrpcService.EnvoyGrpc(
            cluster_name=AGENT_CLUSTER, retry_policy=base_pb2.RetryPolicy(retry_back_off=back_off)
        )
    )
    source = config_source_pb2.ConfigSource(
        api_config_source=config_source_pb2.ApiConfigSource(
            api_type=config_source_pb2.ApiConfigSource.DELTA_GRPC,
            transport_api_version=config_source_pb2.ApiVersion.V3,
            grpc_services=[service],
            set_node_on_first_message_only=True,
        ),
        resource_api_version=config_source_pb2.ApiVersion.V3,
        initial_fetch_timeout=duration(0),
    )
    return secret_pb2.SdsSecretConfig(name=name, sds_config=source)


def credential_secret(name: str) -> Any:
    """A reference to a Secret document by name, served over ADS."""
    return secret_pb2.SdsSecretConfig(name=credential_resource(name), sds_config=ads(None))


def credential_resource(name: str) -> str:
    """The SECRET resource of a `credentialName` (Istio's form; `sds://` without a provider of secrets is a Secret)."""
    name = name.removeprefix("sds://")
    return name if "://" in name else f"kubernetes://{name}"


def uri_exact(uri: str) -> Any:
    """Matches a certificate with exactly this URI SAN."""
    return common_pb2.SubjectAltNameMatcher(
        san_type=common_pb2.SubjectAltNameMatcher.URI, matcher=string_pb2.StringMatcher(exact=uri)
    )


def trust_domain_matchers(mesh: MeshConfig) -> list[Any]:
    """Match any identity of the mesh's trust domain or one of its aliases."""
    domains = dict.fromkeys((mesh.trust_domain, *mesh.trust_domain_aliases))
    return [
        common_pb2.SubjectAltNameMatcher(
            san_type=common_pb2.SubjectAltNameMatcher.URI,
            matcher=string_pb2.StringMatcher(prefix=f"spiffe://{domain}/"),
        )
        for domain in domains
    ]


def san_matchers(names: Sequence[str]) -> list[Any]:
    """Matchers for `subjectAltNames` as users write them: exact, as a URI where it has a scheme, else DNS name or
    address."""
    matchers: list[Any] = []
    for name in names:
        kinds = (
            (common_pb2.SubjectAltNameMatcher.URI,)
            if "://" in name
            else (common_pb2.SubjectAltNameMatcher.DNS, common_pb2.SubjectAltNameMatcher.IP_ADDRESS)
        )
        matchers += [
            common_pb2.SubjectAltNameMatcher(san_type=kind, matcher=string_pb2.StringMatcher(exact=name))
            for kind in kinds
        ]
    return matchers


def _tls13() -> Any:
    """TLS 1.3 and nothing else: Envoy's upstream default would stop at 1.2 (envoy-notes.md)."""
    return common_pb2.TlsParameters(
        tls_minimum_protocol_version=common_pb2.TlsParameters.TLSv1_3,
        tls_maximum_protocol_version=common_pb2.TlsParameters.TLSv1_3,
    )


def _mesh_validation(matchers: Sequence[Any], *, lenient: bool = False) -> Any:
    """Validation by the mesh's root, with these SAN matchers."""
    return tls_pb2.CommonTlsContext.CombinedCertificateValidationContext(
        default_validation_context=common_pb2.CertificateValidationContext(
            match_typed_subject_alt_names=matchers, trust_chain_verification=_trust_chain(lenient)
        ),
        validation_context_sds_secret_config=agent_secret(ROOT_SECRET),
    )


def mesh_upstream(mesh: MeshConfig, sni: str, identities: Sequence[str], *, http2: bool = False) -> Any:
    """The transport socket of mesh mutual TLS towards a service.

    `identities` are the SPIFFE URIs that may answer; where none is known, any identity of the trust domain may.
    `http2` adds `h2` to the ALPN offer.
    """
    matchers = [uri_exact(uri) for uri in sorted(set(identities))] or trust_domain_matchers(mesh)
    context = tls_pb2.UpstreamTlsContext(
        sni=sni,
        common_tls_context=tls_pb2.CommonTlsContext(
            tls_params=_tls13(),
            alpn_protocols=MESH_ALPN_H2 if http2 else MESH_ALPN,
            tls_certificate_sds_secret_configs=[agent_secret(WORKLOAD_SECRET)],
            combined_validation_context=_mesh_validation(matchers),
        ),
    )
    return transport_socket(context)


def mesh_downstream(mesh: MeshConfig, *, tcp: bool = False, names: Sequence[str] = (), lenient: bool = False) -> Any:
    """The transport socket of a server sidecar: TLS 1.3, a client certificate of the mesh's root and trust domain
    (with one of `names`, where there are any; `lenient`: any certificate)."""
    matchers = san_matchers(names) or trust_domain_matchers(mesh)
    context = tls_pb2.DownstreamTlsContext(
        require_client_certificate=boolean(True),
        common_tls_context=tls_pb2.CommonTlsContext(
            tls_params=_tls13(),
            alpn_protocols=TCP_ALPN if tcp else HTTP_ALPN,
            tls_certificate_sds_secret_configs=[agent_secret(WORKLOAD_SECRET)],
            combined_validation_context=_mesh_validation(matchers, lenient=lenient),
        ),
    )
    return transport_socket(context)


def gateway_downstream(mesh: MeshConfig, tls: ServerTls, *, tcp: bool = False) -> Any:
    """The transport socket of a Gateway server that terminates TLS (SIMPLE, MUTUAL, OPTIONAL_MUTUAL, ISTIO_MUTUAL);
    `tcp`: what is inside is not HTTP."""
    if tls.mode is ServerTlsMode.ISTIO_MUTUAL:
        return mesh_downstream(mesh, tcp=tcp, names=tls.subject_alt_names, lenient=tls.insecure_skip_verify)
    common = tls_pb2.CommonTlsContext(alpn_protocols=HTTP_ALPN, tls_params=_server_parameters(mesh, tls))
    for credential in tls.credentials:
        own = credential == BUILTIN
        secret = agent_secret(WORKLOAD_SECRET) if own else credential_secret(credential)
        common.tls_certificate_sds_secret_configs.append(secret)
    for pair in tls.certificates if not tls.credentials else ():
        common.tls_certificate_sds_secret_configs.append(file_secret(server_certificate_name(pair)))
    if tls.verifies_by_own_roots:
        _validate_clients(common, tls)
    context = tls_pb2.DownstreamTlsContext(
        common_tls_context=common, require_client_certificate=boolean(tls.mode is ServerTlsMode.MUTUAL)
    )
    return transport_socket(context)


def server_certificate_name(pair: tuple[str, str]) -> str:
    """The secret of a server's certificate and key that are named as files (Istio's form)."""
    return f"file-cert:{pair[0]}~{pair[1]}"


def server_root_name(tls: ServerTls) -> str:
    """The secret of the CA of a server's clients: of a credential (that of caCertCredentialName has a name of its own,
    because the same Secret may be a certificate as well), or named as a file, with the revocation list beside it."""
    if tls.credentials and tls.ca_credential:
        return credential_resource(f"{tls.ca_credential}#ca")
    if tls.credentials:
        return credential_resource(tls.credentials[0] + CA_SUFFIX)
    return f"file-root:{tls.ca_certificates}" + (f"~{tls.ca_crl}" if tls.ca_crl else "")


def _server_parameters(mesh: MeshConfig, tls: ServerTls) -> Any:
    """Protocol versions and ciphers: the server's own, else the mesh's minimum (Istio's default is TLS 1.2)."""
    parameters = common_pb2.TlsParameters(
        tls_minimum_protocol_version=_version(tls.min_protocol_version or mesh.tls_min_version),
        cipher_suites=tls.cipher_suites or mesh.tls_ciphers,
        ecdh_curves=tls.ecdh_curves or mesh.tls_curves,
    )
    if tls.max_protocol_version:
        parameters.tls_maximum_protocol_version = _version(tls.max_protocol_version)
    return parameters


def _validate_clients(common: Any, tls: ServerTls) -> None:
    """Adds what a client's certificate must satisfy: the CA of the credential or of the file, names, pinned keys."""
    rules = common_pb2.CertificateValidationContext(
        match_typed_subject_alt_names=san_matchers(tls.subject_alt_names),
        verify_certificate_spki=tls.verify_certificate_spki,
        verify_certificate_hash=tls.verify_certificate_hash,
        trust_chain_verification=_trust_chain(tls.insecure_skip_verify),
    )
    common.combined_validation_context.default_validation_context.CopyFrom(rules)
    common.combined_validation_context.validation_context_sds_secret_config.CopyFrom(file_secret(server_root_name(tls)))


def _trust_chain(lenient: bool) -> Any:
    """`insecureSkipVerify`: a client whose certificate does not satisfy is let in all the same (its certificate is told
    to the server in x-forwarded-client-cert)."""
    kind = common_pb2.CertificateValidationContext
    return kind.ACCEPT_UNTRUSTED if lenient else kind.VERIFY_TRUST_CHAIN


def transport_socket(context: Any) -> Any:
    """A TransportSocket of an UpstreamTlsContext or DownstreamTlsContext."""
    return base_pb2.TransportSocket(name=TLS_SOCKET, typed_config=packed(context))
