"""Kinds that Istio, the Gateway API or Kubernetes have and Headrace does not read yet: HR0001 instead of "unknown".

Read by `config.kinds`. A kind leaves this table when it gets its own file.
"""

from __future__ import annotations

ELSEWHERE: dict[str, tuple[str, ...]] = {
    "networking.istio.io": (),
    "security.istio.io": (),
    "telemetry.istio.io": (),
    "extensions.istio.io": (),
    "install.istio.io": ("IstioOperator",),
    "gateway.networking.k8s.io": (
        "BackendLBPolicy",
        "UDPRoute",
    ),
    "gateway.networking.x-k8s.io": ("XBackend", "XBackendTrafficPolicy", "XListenerSet", "XMesh"),
    "inference.networking.k8s.io": (),
    "inference.networking.x-k8s.io": ("InferenceModel", "InferenceObjective", "InferencePool", "InferencePoolImport"),
    "headrace.dev": ("Rollout",),
    "": (
        "Binding",
        "ComponentStatus",
        "Event",
        "LimitRange",
        "Node",
        "PersistentVolume",
        "PersistentVolumeClaim",
        "PodTemplate",
        "ResourceQuota",
    ),
    "apps": ("ControllerRevision",),
    "autoscaling": ("HorizontalPodAutoscaler",),
    "networking.k8s.io": ("IPAddress", "NetworkPolicy", "ServiceCIDR"),
    "policy": ("PodDisruptionBudget", "PodSecurityPolicy"),
    "rbac.authorization.k8s.io": ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"),
    "apiextensions.k8s.io": ("CustomResourceDefinition",),
    "admissionregistration.k8s.io": (
        "MutatingWebhookConfiguration",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ValidatingWebhookConfiguration",
    ),
    "certificates.k8s.io": ("CertificateSigningRequest", "ClusterTrustBundle"),
    "coordination.k8s.io": ("Lease",),
    "events.k8s.io": ("Event",),
    "node.k8s.io": ("RuntimeClass",),
    "scheduling.k8s.io": ("PriorityClass",),
    "storage.k8s.io": ("CSIDriver", "CSINode", "StorageClass", "VolumeAttachment"),
    "kustomize.config.k8s.io": ("Component", "Kustomization"),
}
"""API group → kinds."""
