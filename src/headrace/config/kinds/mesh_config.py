"""`MeshConfig`: mesh-wide settings (istio.mesh.v1alpha1.MeshConfig), as a document or as the file of `--mesh-config`.

Every field of Istio's is known and judged; those that are not acted on are named below.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated

from pydantic import AliasChoices, BeforeValidator, Field, model_validator

from headrace.config.documents import Document
from headrace.config.fields import (
    Bool,
    Choice,
    DnsLabel,
    Duration,
    EnumOf,
    LabelKey,
    LabelMap,
    NonEmpty,
    Port,
    Text,
    duration,
    is_dns_label,
    shown,
    text_of,
    whole,
)
from headrace.config.kinds.http_lowering import lower_retries
from headrace.config.kinds.http_route import RetrySpec
from headrace.config.kinds.istio_names import Timespan, WildcardName, at_most_one
from headrace.config.kinds.load_balancer import LocalityLbSpec, ZoneAwareLbSpec, lower_localities
from headrace.config.kinds.mesh_authorizers import authorizer_findings, lower_authorizers
from headrace.config.kinds.mesh_observers import lower_mesh_tracing, lower_observers, observer_findings
from headrace.config.kinds.mesh_providers import ExtensionProvider
from headrace.config.kinds.mesh_traffic import lower_traffic
from headrace.config.kinds.mesh_values import Milliseconds, TrustDomain
from headrace.config.kinds.proxy_annotation import proxy_settings
from headrace.config.kinds.proxy_config import ProxyConfigSpec, lower_topology
from headrace.config.kinds.traffic_policy import (
    ClientTlsSpec,
    ConnectionPoolSpec,
    OutlierDetectionSpec,
    TcpKeepaliveSpec,
)
from headrace.config.schema import Finding, Kind, Spec, refuse, to_camel
from headrace.model.destination import BY_DISTANCE
from headrace.model.mesh import IngressSettings, MeshConfig, OutboundMode
from headrace.model.mesh import PathNormalization as Normalization
from headrace.model.names import ROOT_NAMESPACE
from headrace.model.resource import Metadata


def _scope(value: object) -> str:
    text = text_of(value, "a namespace")
    if text not in ("*", ".", "~") and not is_dns_label(text):
        raise refuse(f"{shown(text)} is not a scope to export to", "Use '*', '.', '~' or a namespace.")
    return text


Scope = Annotated[str, BeforeValidator(_scope)]
TlsVersion = Annotated[str, Choice("TLS_AUTO", "TLSV1_2", "TLSV1_3", numbered=True)]


class LabelRequirement(Spec):
    """LabelSelectorRequirement."""

    key: LabelKey
    operator: Annotated[str, Choice("In", "NotIn", "Exists", "DoesNotExist")]
    values: list[Text] = []


class LabelSelector(Spec):
    """LabelSelector."""

    match_labels: LabelMap = {}
    match_expressions: list[LabelRequirement] = []


class OutboundTrafficPolicy(Spec):
    """OutboundTrafficPolicy."""

    mode: Annotated[
        OutboundMode,
        EnumOf(OutboundMode, {0: "REGISTRY_ONLY", 1: "ALLOW_ANY", 3: "ALLOW_ANY_DYNAMIC_DNS"}),
    ] = OutboundMode.ALLOW_ANY
    tls: ClientTlsSpec | None = None


class InboundTrafficPolicy(Spec):
    """InboundTrafficPolicy."""

    mode: Annotated[str, Choice("PASSTHROUGH", "LOCALHOST", numbered=True)] = "PASSTHROUGH"


class ConfigSource(Spec):
    """ConfigSource."""

    address: Text = ""
    tls_settings: ClientTlsSpec | None = None
    subscribed_resources: list[Annotated[str, Choice("SERVICE_REGISTRY", numbered=True)]] = []


class CertificateData(Spec):
    """CertificateData: a further root that the mesh trusts."""

    pem: Text | None = None
    spiffe_bundle_url: Text | None = None
    cert_signers: list[Text] = []
    trust_domains: list[Text] = []

    @model_validator(mode="after")
    def _one_source(self) -> CertificateData:
        at_most_one(self, "pem", "spiffe_bundle_url")
        return self


class Certificate(Spec):
    """Certificate."""

    secret_name: Text = ""
    dns_names: list[Text] = []


class ServiceSettingsFlags(Spec):
    cluster_local: Bool = False


class ServiceSettings(Spec):
    """ServiceSettings."""

    settings: ServiceSettingsFlags | None = None
    hosts: list[WildcardName] = []


class ServiceScope(Spec):
    """ServiceScopeConfigs."""

    namespace_selector: LabelSelector | None = None
    services_selector: LabelSelector | None = None
    scope: Annotated[str, Choice("LOCAL", "GLOBAL", numbered=True)] = "LOCAL"


class CertificateAuthority(Spec):
    """CA."""

    address: NonEmpty
    tls_settings: ClientTlsSpec | None = None
    request_timeout: Duration | None = None
    istiod_side: Bool = False


class DefaultProviders(Spec):
    """DefaultProviders."""

    tracing: list[Text] = []
    metrics: list[Text] = []
    access_logging: list[Text] = []


class PathNormalization(Spec):
    """ProxyPathNormalization."""

    normalization: Annotated[
        str, Choice("DEFAULT", "NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES", numbered=True)
    ] = "DEFAULT"


class TlsConfig(Spec):
    """TLSConfig."""

    min_protocol_version: TlsVersion = "TLS_AUTO"
    ecdh_curves: list[Text] = []
    cipher_suites: list[Text] = []


class DefaultTrafficPolicy(Spec):
    """DefaultTrafficPolicy."""

    connection_pool: ConnectionPoolSpec | None = None
    outlier_detection: OutlierDetectionSpec | None = None


Visibility = Annotated[str, Choice("VISIBILITY_UNSPECIFIED", "NONE", "NAMESPACE", "PUBLIC", numbered=True)]


class VisibilityRule(Spec):
    namespace_selector: LabelSelector | None = None


class VisibilityPolicy(Spec):
    visibility: Visibility = "VISIBILITY_UNSPECIFIED"
    matching_rules: list[VisibilityRule] = []


class ServiceEntryVisibility(Spec):
    """ServiceEntryVisibility."""

    default_visibility: Visibility = "VISIBILITY_UNSPECIFIED"
    apply_to_sidecars: Bool = False
    policies: list[VisibilityPolicy] = []


class MeshConfigSpec(Spec):
    """istio.mesh.v1alpha1.MeshConfig."""

    proxy_listen_port: Port | None = None
    proxy_inbound_listen_port: Port | None = None
    proxy_http_port: Annotated[int, BeforeValidator(whole(0, 65535))] = 0
    connect_timeout: Annotated[float, BeforeValidator(duration(0.001, 3600.0))] = 10.0
    hbone_idle_timeout: Duration | None = None
    protocol_detection_timeout: Milliseconds = 0.0
    tcp_keepalive: TcpKeepaliveSpec | None = None
    ingress_class: Text = "istio"
    ingress_service: Text = ""
    ingress_controller_mode: Annotated[str, Choice("UNSPECIFIED", "OFF", "DEFAULT", "STRICT", numbered=True)] = "STRICT"
    ingress_selector: Text = ""
    enable_tracing: Bool = False
    access_log_file: Text = ""
    access_log_format: Text = ""
    access_log_encoding: Annotated[str, Choice("TEXT", "JSON", numbered=True)] = "TEXT"
    enable_envoy_access_log_service: Bool = False
    disable_envoy_listener_log: Bool = False
    default_config: ProxyConfigSpec | None = None
    outbound_traffic_policy: OutboundTrafficPolicy = OutboundTrafficPolicy()
    inbound_traffic_policy: InboundTrafficPolicy | None = None
    config_sources: list[ConfigSource] = []
    enable_auto_mtls: Bool = True
    trust_domain: TrustDomain = "cluster.local"
    trust_domain_aliases: list[TrustDomain] = []
    ca_certificates: list[CertificateData] = []
    default_service_export_to: list[Scope] = ["*"]
    default_virtual_service_export_to: list[Scope] = ["*"]
    default_destination_rule_export_to: list[Scope] = ["*"]
    root_namespace: DnsLabel = ROOT_NAMESPACE
    locality_lb_setting: LocalityLbSpec | None = None
    zone_aware_lb_setting: ZoneAwareLbSpec | None = None
    dns_refresh_rate: Timespan | None = None
    h2_upgrade_policy: Annotated[str, Choice("DO_NOT_UPGRADE", "UPGRADE", numbered=True)] = "DO_NOT_UPGRADE"
    inbound_cluster_stat_name: Text = ""
    outbound_cluster_stat_name: Text = ""
    certificates: list[Certificate] = []
    service_settings: list[ServiceSettings] = []
    service_scope_configs: list[ServiceScope] = []
    enable_prometheus_merge: Bool | None = None
    verify_certificate_at_client: Bool | None = None
    ca: CertificateAuthority | None = None
    extension_providers: list[ExtensionProvider] = []
    default_providers: DefaultProviders | None = None
    discovery_selectors: list[LabelSelector] = []
    path_normalization: PathNormalization | None = None
    default_http_retry_policy: RetrySpec | None = None
    default_inbound_http_retry_policy: RetrySpec | None = None
    mesh_mtls: Annotated[
        TlsConfig | None, Field(alias="meshMTLS", validation_alias=AliasChoices("meshMTLS", "mesh_mTLS"))
    ] = None
    tls_defaults: TlsConfig | None = None
    default_traffic_policy: DefaultTrafficPolicy | None = None
    service_entry_visibility: ServiceEntryVisibility | None = None


def _check(spec: MeshConfigSpec, document: Document) -> Iterator[Finding]:
    if spec.access_log_encoding == "JSON" and spec.access_log_format and not _is_json_object(spec.access_log_format):
        message = "with accessLogEncoding JSON the format must be a JSON object"
        yield Finding(("spec", "accessLogFormat"), message, 'Write {"name": "%FIELD%", ...}, or use TEXT.')
    retry = spec.default_inbound_http_retry_policy
    if retry is not None and retry.attempts == 0 and retry.backoff is not None:
        at_retry = ("spec", "defaultInboundHttpRetryPolicy", "backoff")
        yield Finding(at_retry, "attempts 0 turns retries off, so backoff means nothing", "Set attempts.")
    names = [provider.name for provider in spec.extension_providers]
    for at_index, name in enumerate(names):
        if name in names[:at_index]:
            path = ("spec", "extensionProviders", at_index, "name")
            yield Finding(path, f"a second provider is called {shown(name)}", "Rename one.")
    for at_index, provider in enumerate(spec.extension_providers):
        yield from authorizer_findings(provider, ("spec", "extensionProviders", at_index))
        yield from observer_findings(provider, ("spec", "extensionProviders", at_index))


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _lower(meta: Metadata, spec: MeshConfigSpec, document: Document) -> MeshConfig:
    tls_min = spec.tls_defaults.min_protocol_version if spec.tls_defaults else "TLS_AUTO"
    defaults = spec.default_providers or DefaultProviders()
    return MeshConfig(
        root_namespace=spec.root_namespace,
        trust_domain=spec.trust_domain,
        trust_domain_aliases=tuple(spec.trust_domain_aliases),
        outbound_mode=spec.outbound_traffic_policy.mode,
        connect_timeout=spec.connect_timeout,
        protocol_detection_timeout=spec.protocol_detection_timeout,
        enable_auto_mtls=spec.enable_auto_mtls,
        access_log_file=spec.access_log_file,
        access_log_encoding=spec.access_log_encoding,
        access_log_format=spec.access_log_format,
        listener_logs=not spec.disable_envoy_listener_log,
        default_http_retry=lower_retries(spec.default_http_retry_policy),
        default_service_export_to=tuple(spec.default_service_export_to) or ("*",),
        default_virtual_service_export_to=tuple(spec.default_virtual_service_export_to) or ("*",),
        default_destination_rule_export_to=tuple(spec.default_destination_rule_export_to) or ("*",),
        locality=lower_localities(spec.locality_lb_setting, spec.zone_aware_lb_setting) or BY_DISTANCE,
        tls_ciphers=tuple(spec.tls_defaults.cipher_suites) if spec.tls_defaults else (),
        tls_curves=tuple(spec.tls_defaults.ecdh_curves) if spec.tls_defaults else (),
        tls_min_version="TLSV1_2" if tls_min == "TLS_AUTO" else tls_min,
        path_normalization=_normalization(spec.path_normalization),
        authorizers=lower_authorizers(spec.extension_providers),
        gateway_topology=lower_topology(spec.default_config),
        ingress=_ingress(spec),
        providers=lower_observers(spec.extension_providers, spec.access_log_encoding, spec.access_log_format),
        default_logs=tuple(defaults.access_logging),
        default_spans=tuple(defaults.tracing),
        tracing=lower_mesh_tracing(spec.enable_tracing, spec.default_config),
        traffic=lower_traffic(spec),
        proxy=proxy_settings(spec.default_config),
        digest=document.digest,
    )


def _ingress(spec: MeshConfigSpec) -> IngressSettings:
    """Whose Ingresses are for which gateways; the service of the default installation has a label of another name."""
    service = "" if spec.ingress_service == "istio-ingressgateway" else spec.ingress_service
    selector = spec.ingress_selector or service or "ingressgateway"
    return IngressSettings(spec.ingress_controller_mode, spec.ingress_class, selector)


def _normalization(spec: PathNormalization | None) -> Normalization:
    written = spec.normalization if spec is not None else "DEFAULT"
    return Normalization.BASE if written == "DEFAULT" else Normalization(written)


KIND = Kind(
    group="headrace.dev",
    versions=("v1alpha1",),
    name="MeshConfig",
    model=MeshConfigSpec,
    lower=_lower,
    check=_check,
    namespaced=False,
    untranslated=(
        "spec.proxyListenPort",
        "spec.proxyInboundListenPort",
        "spec.proxyHttpPort",
        "spec.enableEnvoyAccessLogService",
        *(
            f"spec.defaultConfig.{to_camel(name)}"
            for name in ProxyConfigSpec.model_fields
            if name not in ("gateway_topology", "tracing", "concurrency", "proxy_metadata")
        ),
        *(f"spec.defaultConfig.tracing.{name}" for name in ("zipkin", "lightstep", "datadog", "stackdriver")),
        "spec.defaultConfig.tracing.openCensusAgent",
        "spec.defaultConfig.tracing.tlsSettings",
        "spec.outboundTrafficPolicy.tls",
        "spec.caCertificates",
        "spec.inboundClusterStatName",
        "spec.outboundClusterStatName",
        "spec.ca",
        "spec.meshMTLS.ecdhCurves",
        "spec.mesh_mTLS.ecdhCurves",
        "spec.serviceEntryVisibility",
    ),
    without_effect=(
        "spec.meshMTLS.minProtocolVersion",
        "spec.meshMTLS.cipherSuites",
        "spec.mesh_mTLS.minProtocolVersion",
        "spec.mesh_mTLS.cipherSuites",
        "spec.defaultProviders.metrics",
        "spec.defaultTrafficPolicy.outlierDetection.consecutiveErrors",
        "spec.hboneIdleTimeout",
        "spec.serviceSettings",
        "spec.serviceScopeConfigs",
        "spec.configSources",
        "spec.certificates",
        "spec.discoverySelectors",
        "spec.enablePrometheusMerge",
        "spec.verifyCertificateAtClient",
    ),
)
