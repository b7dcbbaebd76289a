"""What to do about a refusal: the document to change, or what to say differently.

Called by `walk` with what it knows of the place where the request ended.
"""

from __future__ import annotations

from headrace.app.trace.origins import described
from headrace.envoy.trace.request import Refusal
from headrace.envoy.view import Scope
from headrace.envoy.visibility import exported_to
from headrace.model.mesh import OutboundMode
from headrace.model.service import Service
from headrace.registry.snapshot import MeshSnapshot

_BY_CODE = {
    "no-listener": "Ask for a port that the Gateway's servers have, or add a server.",
    "no-filter-chain": "Say the server name with --sni, or use a protocol that this port takes.",
    "protocol-error": "Use http:// (or a TCP port): the proxy reads HTTP here. Declare the port's protocol otherwise.",
    "no-virtual-host": "Ask for a host that a VirtualService or HTTPRoute binds to this Gateway.",
    "no-route": "Add a rule that matches, or one without a match at the end.",
    "client-certificate-required": "Call from a workload of the mesh, or show a client certificate.",
    "tls-required": "Call from a workload with a proxy, or let PeerAuthentication be PERMISSIVE for this port.",
    "not-allowed": "Add a rule to an ALLOW policy that this request satisfies.",
    "denied": "Change the rule, or exempt this request from it.",
    "unknown-host": "Add a Service or ServiceEntry for the host, or set outboundTrafficPolicy to ALLOW_ANY.",
    "no-endpoints": "Add a workload whose labels the service (and the subset) selects, or mend its readiness.",
    "no-cluster": "Correct the destination's host, subset or port: nothing is known by that name here.",
}


def remedy_for(refusal: Refusal) -> str:
    """One sentence; '' where none is known."""
    return _BY_CODE.get(refusal.code, "")


def hidden(snapshot: MeshSnapshot, service: Service | None, scope: Scope) -> dict[str, str]:
    """Why a client does not see a service that there is (`policy`), and what to do; nothing where it may see it."""
    sidecar, namespace = scope.sidecar, scope.namespace
    if service is None:
        if sidecar is None or sidecar.outbound_mode is not OutboundMode.REGISTRY_ONLY:
            return {}
        return {"policy": f"{described(sidecar.meta)} has outboundTrafficPolicy REGISTRY_ONLY"}
    if not exported_to(service.export_to, snapshot.mesh.default_service_export_to, service.namespace, namespace):
        words = ", ".join(service.export_to) or "the mesh's default"
        why = f"{described(service.meta)} is exported to {words}, which leaves out namespace {namespace}"
        return {"policy": why, "remedy": f"Export it to {namespace}."}
    if sidecar is not None and service.host not in scope.by_host:
        why = f"{described(sidecar.meta)} does not let {service.host} through"
        return {"policy": why, "remedy": f"Add {service.namespace}/{service.host} to the hosts of its egress."}
    return {}
