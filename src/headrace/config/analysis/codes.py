"""The codes that analysis may report, with the severity each one has.

IST codes carry Istio's number, name and level (istio.io/analysis messages), so that people's knowledge of `istioctl
analyze` carries over; HR codes are ours. `docs/reference/analysis.md` has one entry a code.
"""

from __future__ import annotations

from enum import Enum

from headrace.model.problem import Severity


class Code(Enum):
    """A judgement: (code, Istio's name or ours, severity)."""

    NOT_FOUND = ("IST0101", "ReferencedResourceNotFound", Severity.ERROR)
    MISPLACED_ANNOTATION = ("IST0107", "MisplacedAnnotation", Severity.WARNING)
    UNKNOWN_ANNOTATION = ("IST0108", "UnknownAnnotation", Severity.WARNING)
    CONFLICTING_MESH_HOSTS = ("IST0109", "ConflictingMeshGatewayVirtualServiceHosts", Severity.ERROR)
    PORT_SELECTOR_REQUIRED = ("IST0112", "VirtualServiceDestinationPortSelectorRequired", Severity.ERROR)
    MTLS_CONFLICT = ("IST0113", "MTLSPolicyConflict", Severity.ERROR)
    SEVERAL_TRANSPORTS = ("IST0116", "DeploymentAssociatedToMultipleServices", Severity.WARNING)
    PORT_NAMING = ("IST0118", "PortNameIsNotUnderNamingConvention", Severity.INFO)
    NO_MATCHING_WORKLOADS = ("IST0127", "NoMatchingWorkloadsFound", Severity.WARNING)
    NO_SERVER_VERIFICATION = ("IST0128", "NoServerCertificateVerificationDestinationLevel", Severity.WARNING)
    NO_SERVER_VERIFICATION_PORT = ("IST0129", "NoServerCertificateVerificationPortLevel", Severity.WARNING)
    UNREACHABLE_RULE = ("IST0130", "VirtualServiceUnreachableRule", Severity.WARNING)
    INEFFECTIVE_MATCH = ("IST0131", "VirtualServiceIneffectiveMatch", Severity.INFO)
    HOST_NOT_IN_GATEWAY = ("IST0132", "VirtualServiceHostNotFoundInGateway", Severity.WARNING)
    ADDRESSES_REQUIRED = ("IST0134", "ServiceEntryAddressesRequired", Severity.WARNING)
    DEPRECATED_ANNOTATION = ("IST0135", "DeprecatedAnnotation", Severity.INFO)
    CONFLICTING_PORTS = ("IST0137", "DeploymentConflictingPorts", Severity.WARNING)
    DUPLICATE_CERTIFICATE = ("IST0138", "GatewayDuplicateCertificate", Severity.WARNING)
    INGRESS_NOT_AFFECTED = ("IST0140", "IngressRouteRulesNotAffected", Severity.WARNING)
    CONFLICTING_GATEWAYS = ("IST0145", "ConflictingGateways", Severity.ERROR)
    CLAIMS_NOT_VERIFIED = ("IST0149", "JwtClaimBasedRoutingWithoutRequestAuthN", Severity.ERROR)
    EXTERNAL_NAME_PORT = ("IST0150", "ExternalNameServiceTypeInvalidPortName", Severity.WARNING)
    INVALID_CREDENTIAL = ("IST0161", "InvalidGatewayCredential", Severity.ERROR)
    GATEWAY_PORT_NOT_ON_SERVICE = ("IST0162", "GatewayPortNotDefinedOnService", Severity.WARNING)
    SUBSET_SELECTS_NOTHING = ("IST0173", "DestinationRuleSubsetNotSelectPods", Severity.ERROR)
    UNKNOWN_RULE_HOST = ("IST0174", "UnknownDestinationRuleHost", Severity.WARNING)
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
