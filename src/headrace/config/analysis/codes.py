"""The codes that analysis may report, with the severity each one has.

IST codes carry Istio's number, name and level (istio.io/analysis messages), so that people's knowledge of `istioctl
analyze` carries over; HR codes are ours. `docs/reference/analysis.md` has one entry a code.
"""

from __future__ import annotations

from enum import Enum

from headrace.model.problem import Severity


class Code(Enum):
    """A judgement: (code, Istio's name or ours, severity)."""

    DEPRECATED = ("IST0002", "Deprecated", Severity.WARNING)
    NOT_FOUND = ("IST0101", "ReferencedResourceNotFound", Severity.ERROR)
    NAMESPACE_NOT_INJECTED = ("IST0102", "NamespaceNotInjected", Severity.INFO)
    POD_WITHOUT_PROXY = ("IST0103", "PodMissingProxy", Severity.WARNING)
    MISPLACED_ANNOTATION = ("IST0107", "MisplacedAnnotation", Severity.WARNING)
    UNKNOWN_ANNOTATION = ("IST0108", "UnknownAnnotation", Severity.WARNING)
    CONFLICTING_MESH_HOSTS = ("IST0109", "ConflictingMeshGatewayVirtualServiceHosts", Severity.ERROR)
    CONFLICTING_SIDECARS = ("IST0110", "ConflictingSidecarWorkloadSelectors", Severity.ERROR)
    SEVERAL_SIDECARS = ("IST0111", "MultipleSidecarsWithoutWorkloadSelectors", Severity.ERROR)
    PORT_SELECTOR_REQUIRED = ("IST0112", "VirtualServiceDestinationPortSelectorRequired", Severity.ERROR)
    MTLS_CONFLICT = ("IST0113", "MTLSPolicyConflict", Severity.ERROR)
    SEVERAL_TRANSPORTS = ("IST0116", "DeploymentAssociatedToMultipleServices", Severity.WARNING)
    PORT_NAMING = ("IST0118", "PortNameIsNotUnderNamingConvention", Severity.INFO)
    SEVERAL_INJECTION_LABELS = ("IST0123", "NamespaceMultipleInjectionLabels", Severity.WARNING)
    INVALID_ANNOTATION = ("IST0125", "InvalidAnnotation", Severity.WARNING)
    UNKNOWN_REGISTRY = ("IST0126", "UnknownMeshNetworksServiceRegistry", Severity.ERROR)
    NO_MATCHING_WORKLOADS = ("IST0127", "NoMatchingWorkloadsFound", Severity.WARNING)
    NO_SERVER_VERIFICATION = ("IST0128", "NoServerCertificateVerificationDestinationLevel", Severity.WARNING)
    NO_SERVER_VERIFICATION_PORT = ("IST0129", "NoServerCertificateVerificationPortLevel", Severity.WARNING)
    UNREACHABLE_RULE = ("IST0130", "VirtualServiceUnreachableRule", Severity.WARNING)
    INEFFECTIVE_MATCH = ("IST0131", "VirtualServiceIneffectiveMatch", Severity.INFO)
    HOST_NOT_IN_GATEWAY = ("IST0132", "VirtualServiceHostNotFoundInGateway", Severity.WARNING)
    SCHEMA_WARNING = ("IST0133", "SchemaWarning", Severity.WARNING)
    ADDRESSES_REQUIRED = ("IST0134", "ServiceEntryAddressesRequired", Severity.WARNING)
    DEPRECATED_ANNOTATION = ("IST0135", "DeprecatedAnnotation", Severity.INFO)
    CONFLICTING_PORTS = ("IST0137", "DeploymentConflictingPorts", Severity.WARNING)
    DUPLICATE_CERTIFICATE = ("IST0138", "GatewayDuplicateCertificate", Severity.WARNING)
    INVALID_WEBHOOK = ("IST0139", "InvalidWebhook", Severity.ERROR)
    INGRESS_NOT_AFFECTED = ("IST0140", "IngressRouteRulesNotAffected", Severity.WARNING)
    INVALID_USER = ("IST0144", "InvalidApplicationUID", Severity.WARNING)
    CONFLICTING_GATEWAYS = ("IST0145", "ConflictingGateways", Severity.ERROR)
    IMAGE_AUTO = ("IST0146", "ImageAutoWithoutInjectionWarning", Severity.WARNING)
    IMAGE_AUTO_POD = ("IST0147", "ImageAutoWithoutInjectionError", Severity.ERROR)
    INJECTED_BY_DEFAULT = ("IST0148", "NamespaceInjectionEnabledByDefault", Severity.INFO)
    CLAIMS_NOT_VERIFIED = ("IST0149", "JwtClaimBasedRoutingWithoutRequestAuthN", Severity.ERROR)
    EXTERNAL_NAME_PORT = ("IST0150", "ExternalNameServiceTypeInvalidPortName", Severity.WARNING)
    FILTER_RELATIVE = ("IST0151", "EnvoyFilterUsesRelativeOperation", Severity.WARNING)
    FILTER_REPLACES = ("IST0152", "EnvoyFilterUsesReplaceOperationIncorrectly", Severity.ERROR)
    FILTER_ADDS = ("IST0153", "EnvoyFilterUsesAddOperationIncorrectly", Severity.ERROR)
    FILTER_REMOVES = ("IST0154", "EnvoyFilterUsesRemoveOperationIncorrectly", Severity.ERROR)
    FILTER_RELATIVE_VERSION = ("IST0155", "EnvoyFilterUsesRelativeOperationWithProxyVersion", Severity.WARNING)
    INVALID_TELEMETRY_PROVIDER = ("IST0157", "InvalidTelemetryProvider", Severity.WARNING)
    PROXY_IMAGE_MISMATCH = ("IST0158", "PodsIstioProxyImageMismatchInNamespace", Severity.WARNING)
    CONFLICTING_TELEMETRIES = ("IST0159", "ConflictingTelemetryWorkloadSelectors", Severity.ERROR)
    SEVERAL_TELEMETRIES = ("IST0160", "MultipleTelemetriesWithoutWorkloadSelectors", Severity.ERROR)
    INVALID_CREDENTIAL = ("IST0161", "InvalidGatewayCredential", Severity.ERROR)
    GATEWAY_PORT_NOT_ON_SERVICE = ("IST0162", "GatewayPortNotDefinedOnService", Severity.WARNING)
    INVALID_EXTERNAL_CONTROL_PLANE = ("IST0163", "InvalidExternalControlPlaneConfig", Severity.WARNING)
    CONTROL_PLANE_IS_ADDRESS = ("IST0164", "ExternalControlPlaneAddressIsNotAHostname", Severity.INFO)
    INTERNAL_GATEWAY = ("IST0165", "ReferencedInternalGateway", Severity.WARNING)
    INEFFECTIVE_SELECTOR = ("IST0166", "IneffectiveSelector", Severity.WARNING)
    INEFFECTIVE_POLICY = ("IST0167", "IneffectivePolicy", Severity.WARNING)
    NEGATIVE_CONDITION = ("IST0171", "NegativeConditionStatus", Severity.WARNING)
    SUBSET_SELECTS_NOTHING = ("IST0173", "DestinationRuleSubsetNotSelectPods", Severity.ERROR)
    UNKNOWN_RULE_HOST = ("IST0174", "UnknownDestinationRuleHost", Severity.WARNING)
    KEY_FETCHING_UNRESTRICTED = ("IST0175", "JwksUriFetchUnrestricted", Severity.WARNING)
    OLD_DEFINITION = ("IST0176", "GatewayAPICRDVersionBelowMinimum", Severity.WARNING)
    CONFLICTING_ENTRY_PROTOCOL = ("IST0177", "ConflictingServiceEntryProtocol", Severity.WARNING)
    NO_EFFECT = ("HR0002", "no effect", Severity.WARNING)
    NO_TIMEOUT = ("HR0101", "InferenceRouteWithoutTimeout", Severity.WARNING)
    INFERENCE_TARGET_NOT_FOUND = ("HR0102", "InferencePolicyTargetNotFound", Severity.WARNING)
    CONFLICTING_INFERENCE_POLICIES = ("HR0103", "ConflictingInferencePolicies", Severity.WARNING)
    OVERFLOW_NOT_FOUND = ("HR0104", "InferenceOverflowNotFound", Severity.WARNING)
    OVERFLOW_TO_ITSELF = ("HR0105", "InferenceOverflowToItself", Severity.WARNING)
    OVERFLOW_CYCLE = ("HR0106", "InferenceOverflowCycle", Severity.WARNING)
    UNUSABLE_CREDENTIAL = ("HR0107", "CredentialNotUsable", Severity.ERROR)
    CREDENTIAL_IN_CLEAR_TEXT = ("HR0108", "CredentialInClearText", Severity.WARNING)
    CREDENTIAL_IN_ACCESS_LOG = ("HR0109", "CredentialInAccessLog", Severity.WARNING)
    NO_AUTHORIZER = ("HR0121", "AuthorizerNotFound", Severity.WARNING)
    HOST_WITHOUT_PORT = ("HR0122", "DeniedHostWithoutPort", Severity.WARNING)
    NO_OBSERVER = ("HR0123", "TelemetryProviderNotFound", Severity.WARNING)

    @property
    def code(self) -> str:
        return self.value[0]

    @property
    def title(self) -> str:
        """Istio's name of the judgement."""
        return self.value[1]

    @property
    def severity(self) -> Severity:
        return self.value[2]
