"""Mesh-wide settings: the part of Istio's MeshConfig that Headrace acts on (source: istio.mesh.v1alpha1.MeshConfig)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from headrace.model.authorization import Authorizer
from headrace.model.destination import BY_DISTANCE, ConnectionPool, LocalityLb, OutlierDetection, TcpKeepalive
from headrace.model.extension import Extension
from headrace.model.names import ROOT_NAMESPACE
from headrace.model.proxy_config import UNSET, ProxySettings
from headrace.model.telemetry import ENVOY_LOG, UNOBSERVED, UNTRACED, MeshTracing, Observed, Producer, Provider
from headrace.model.traffic import Retries


class OutboundMode(StrEnum):
    """MeshConfig.outboundTrafficPolicy.mode: what happens to traffic for hosts that the mesh does not know.
    ALLOW_ANY_DYNAMIC_DNS: as ALLOW_ANY, but clear-text HTTP goes to what its host is looked up as, not to the address
    that the client meant."""

    ALLOW_ANY = "ALLOW_ANY"
    ALLOW_ANY_DYNAMIC_DNS = "ALLOW_ANY_DYNAMIC_DNS"
    REGISTRY_ONLY = "REGISTRY_ONLY"


class PathNormalization(StrEnum):
    """MeshConfig.pathNormalization: what is done to a path before routes and policies see it (DEFAULT is BASE)."""

    NONE = "NONE"
    BASE = "BASE"
    MERGE_SLASHES = "MERGE_SLASHES"
    DECODE_AND_MERGE_SLASHES = "DECODE_AND_MERGE_SLASHES"


@dataclass(frozen=True, slots=True)
class GatewayTopology:
    """ProxyConfig.gatewayTopology: what stands before the mesh's gateways. `trusted_proxies` is how many addresses at
    the end of x-forwarded-for are believed. `client_certificates` is what becomes of x-forwarded-client-cert, in
    Envoy's words; empty: what clients send is replaced by who they are (SANITIZE_SET). `proxy_protocol`: connections
    begin with the PROXY protocol, which says who the client is."""

    trusted_proxies: int = 0
    client_certificates: str = ""
    proxy_protocol: bool = False


@dataclass(frozen=True, slots=True)
class IngressSettings:
    """MeshConfig's ingressControllerMode (OFF, DEFAULT: also Ingresses without a class, STRICT), ingressClass, and the
    `istio` label of the gateways that serve Ingresses (ingressSelector, else ingressService)."""

    mode: str = "STRICT"
    class_name: str = "istio"
    selector: str = "ingressgateway"


DNS_REFRESH = 60.0
"""Seconds after which a name is looked up again, where nothing is said (Istio's number)."""


@dataclass(frozen=True, slots=True)
class MeshTraffic:
    """What holds for the traffic of all workloads where nothing closer to one says otherwise. Times in seconds.

    `http2_upgrade`: HTTP goes to every server as HTTP/2. `inbound_retries` None: Istio's default before the
    application. `to_localhost`: the application is called at 127.0.0.1. `pool` and `outliers` stand in for the blocks
    that a DestinationRule does not have.
    """

    keepalive: TcpKeepalive | None = None
    http2_upgrade: bool = False
    dns_refresh: float = DNS_REFRESH
    inbound_retries: Retries | None = None
    to_localhost: bool = False
    pool: ConnectionPool | None = None
    outliers: OutlierDetection | None = None


PLAIN_TRAFFIC = MeshTraffic()
"""Istio's defaults."""


@dataclass(frozen=True, slots=True, eq=False)
class MeshConfig:
    """Mesh-wide settings; every default is Istio's. Times in seconds.

    `access_log_file` empty means no access log; `default_http_retry` None means Istio's default policy. `authorizers`
    are the ext_authz providers among extensionProviders, which CUSTOM policies name; `providers` those of logs and
    spans, which Telemetry names (`envoy` is there without being declared), `default_logs` and `default_spans` what
    counts where no Telemetry names any.

    `observed`, `extensions` and `producer` are no fields of Istio's: what documents make of these settings for one
    scope of proxies (`envoy.attachments`); in the mesh's own settings they are empty.

    Three are no fields of Istio's, and set by the control plane of a running mesh: `guarded`, whether proxies with the
    native module end what revoked peers have under way, `connection_life`, after how long a connection of mutual TLS
    takes no new requests (0: never), and `routed`, whether a service's address leads to an endpoint by itself, as on a
    cluster's network (else the load balancer PASSTHROUGH can only choose one, as by default).
    """

    root_namespace: str = ROOT_NAMESPACE
    trust_domain: str = "cluster.local"
    trust_domain_aliases: tuple[str, ...] = ()
    outbound_mode: OutboundMode = OutboundMode.ALLOW_ANY
    connect_timeout: float = 10.0
    protocol_detection_timeout: float = 0.0
    enable_auto_mtls: bool = True
    access_log_file: str = ""
    access_log_encoding: str = "TEXT"
    access_log_format: str = ""
    listener_logs: bool = True
    default_http_retry: Retries | None = None
    default_service_export_to: tuple[str, ...] = ("*",)
    default_virtual_service_export_to: tuple[str, ...] = ("*",)
    default_destination_rule_export_to: tuple[str, ...] = ("*",)
    locality: LocalityLb = BY_DISTANCE
    tls_min_version: str = "TLSV1_2"
    tls_ciphers: tuple[str, ...] = ()
    tls_curves: tuple[str, ...] = ()
    path_normalization: PathNormalization = PathNormalization.BASE
    authorizers: tuple[Authorizer, ...] = ()
    gateway_topology: GatewayTopology = GatewayTopology()
    ingress: IngressSettings = IngressSettings()
    traffic: MeshTraffic = PLAIN_TRAFFIC
    providers: tuple[Provider, ...] = (ENVOY_LOG,)
    default_logs: tuple[str, ...] = ()
    default_spans: tuple[str, ...] = ()
    tracing: MeshTracing = UNTRACED
    observed: Observed = UNOBSERVED
    extensions: tuple[Extension, ...] = ()
    producer: Producer | None = None
    proxy: ProxySettings = UNSET
    guarded: bool = False
    routed: bool = True
    connection_life: float = 0.0
    digest: str = ""
