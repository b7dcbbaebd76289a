"""How a cluster secures its connections: automatic mutual TLS, or what a DestinationRule writes.

Called by `clusters`. Rule (Istio): an explicit `tls` wins; else endpoints that have a mesh certificate (metadata
`tlsMode: istio`) are spoken to with mutual TLS, the others in clear text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2, proxy_protocol_pb2
from envoy.extensions.transport_sockets.proxy_protocol.v3 import upstream_proxy_protocol_pb2 as upstream_pb2
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, tls_pb2

from headrace.envoy.translate.file_secrets import certificate_name, file_secret, root_name
from headrace.envoy.translate.messages import packed
from headrace.envoy.translate.tls import credential_secret, mesh_upstream, san_matchers, transport_socket
from headrace.model.destination import ClientTls, ProxyProtocol, TlsMode
from headrace.model.gateway import CA_SUFFIX
from headrace.model.mesh import MeshConfig
from headrace.model.service import Resolution, Service

_PROXY_SOCKET = "envoy.transport_sockets.upstream_proxy_protocol"
_PROXY_VERSIONS = {
    ProxyProtocol.V1: proxy_protocol_pb2.ProxyProtocolConfig.V1,
    ProxyProtocol.V2: proxy_protocol_pb2.ProxyProtocolConfig.V2,
}
TLS_MODE = "tlsMode"
ISTIO = "istio"


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """What the TLS of one cluster is made of: the mesh, the service, the written tls, the SNI of mesh mutual TLS and
    the identities behind the service."""

    mesh: MeshConfig
    service: Service
    tls: ClientTls | None
    sni: str
    accounts: Sequence[str]
    http2: bool


def apply_tls(cluster: Any, options: Any | None, settings: TlsSettings) -> None:
    """Give the cluster its transport socket; `options` are its HttpProtocolOptions, which may learn to set SNI and to
    verify names automatically."""
    tls = settings.tls
    if tls is None:
        _apply_automatic(cluster, settings)
    elif tls.mode is TlsMode.ISTIO_MUTUAL:
        names = tls.subject_alt_names or settings.accounts
        socket = mesh_upstream(settings.mesh, tls.sni or settings.sni, names, http2=settings.http2)
        cluster.transport_socket.CopyFrom(socket)
    elif tls.mode in (TlsMode.SIMPLE, TlsMode.MUTUAL):
        cluster.transport_socket.CopyFrom(transport_socket(_originated(tls, settings)))
        if options is not None and settings.service.resolution is not Resolution.NONE:
            _set_automatic_names(options.upstream_http_protocol_options, tls, settings.service)


def originates_tls(tls: ClientTls | None) -> bool:
    """Whether the cluster speaks ordinary TLS, so that it needs HttpProtocolOptions for the SNI."""
    return tls is not None and tls.mode in (TlsMode.SIMPLE, TlsMode.MUTUAL)


def apply_proxy_protocol(cluster: Any, version: ProxyProtocol) -> None:
    """Let every connection begin with the PROXY protocol's header, before TLS; called after `apply_tls`.

    Not where TLS is originated to the address that the caller meant: Envoy 1.40 in `--mode validate` crashes on that.
    """
    if cluster.type == cluster_pb2.Cluster.ORIGINAL_DST and cluster.HasField("transport_socket"):
        return
    config = proxy_protocol_pb2.ProxyProtocolConfig(version=_PROXY_VERSIONS[version])
    sockets = [match.transport_socket for match in cluster.transport_socket_matches]
    if cluster.HasField("transport_socket") or not sockets:
        if not cluster.HasField("transport_socket"):
            cluster.transport_socket.CopyFrom(_raw_buffer())
        sockets.append(cluster.transport_socket)
    for socket in sockets:
        wrapped = upstream_pb2.ProxyProtocolUpstreamTransport(config=config, transport_socket=socket)
        socket.CopyFrom(base_pb2.TransportSocket(name=_PROXY_SOCKET, typed_config=packed(wrapped)))


def _apply_automatic(cluster: Any, settings: TlsSettings) -> None:
    if not settings.mesh.enable_auto_mtls or settings.service.external:
        return
    if cluster.type == cluster_pb2.Cluster.ORIGINAL_DST or cluster.HasField("cluster_type"):
        return  # nothing says who is there
    kind = cluster_pb2.Cluster.TransportSocketMatch
    mutual = kind(
        name="tlsMode-istio",
        transport_socket=mesh_upstream(settings.mesh, settings.sni, settings.accounts, http2=settings.http2),
    )
    mutual.match[TLS_MODE] = ISTIO
    plain = kind(name="tlsMode-disabled", transport_socket=_raw_buffer())
    plain.match.SetInParent()
    cluster.transport_socket_matches.extend([mutual, plain])


def _raw_buffer() -> Any:
    return base_pb2.TransportSocket(
        name="envoy.transport_sockets.raw_buffer", typed_config=packed(raw_buffer_pb2.RawBuffer())
    )


def _originated(tls: ClientTls, settings: TlsSettings) -> Any:
    """The context of TLS to a server outside: TLS 1.2 and 1.3, the server's name verified unless the rule forbids."""
    common = tls_pb2.CommonTlsContext(
        tls_params=common_pb2.TlsParameters(
            tls_minimum_protocol_version=common_pb2.TlsParameters.TLSv1_2,
            tls_maximum_protocol_version=common_pb2.TlsParameters.TLSv1_3,
            cipher_suites=settings.mesh.tls_ciphers,
            ecdh_curves=settings.mesh.tls_curves,
        ),
        alpn_protocols=["h2"] if settings.http2 else [],
    )
    if tls.mode is TlsMode.MUTUAL:
        own = credential_secret(tls.credential_name) if tls.credential_name else file_secret(certificate_name(tls))
        common.tls_certificate_sds_secret_configs.append(own)
    _verify_server(common, tls, tls.subject_alt_names or settings.service.subject_alt_names)
    return tls_pb2.UpstreamTlsContext(sni=tls.sni, common_tls_context=common)


def _verify_server(common: Any, tls: ClientTls, names: Sequence[str]) -> None:
    """Which CA must have signed the server's certificate: the credential's, the file's, else the host's."""
    rules = common_pb2.CertificateValidationContext(match_typed_subject_alt_names=san_matchers(names))
    if tls.insecure_skip_verify:
        common.validation_context.CopyFrom(
            common_pb2.CertificateValidationContext(
                trust_chain_verification=common_pb2.CertificateValidationContext.ACCEPT_UNTRUSTED
            )
        )
        return
    root = credential_secret(tls.credential_name + CA_SUFFIX) if tls.credential_name else file_secret(root_name(tls))
    common.combined_validation_context.default_validation_context.CopyFrom(rules)
    common.combined_validation_context.validation_context_sds_secret_config.CopyFrom(root)


def _set_automatic_names(upstream: Any, tls: ClientTls, service: Service) -> None:
    """SNI from the request's host where the rule writes none; then the certificate must carry that name, unless SANs
    are written (Istio's rule)."""
    if tls.sni:
        return
    upstream.auto_sni = True
    if not tls.subject_alt_names and not service.subject_alt_names and not tls.insecure_skip_verify:
        upstream.auto_san_validation = True
