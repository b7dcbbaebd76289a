"""The names under which a service is called: full name, short forms, addresses.

Called by `virtual_hosts`. Rule (Istio): a Kubernetes service is also known by the forms that its name has in the
caller's namespace; ports are ignored in matching, so none is written.
"""

from __future__ import annotations

from headrace.model.names import CLUSTER_DOMAIN
from headrace.model.service import Service

_SUFFIX = f".svc.{CLUSTER_DOMAIN}"


def service_domains(service: Service, namespace: str) -> tuple[str, ...]:
    """Domains of a service for callers in `namespace`, the full name first."""
    host = service.host
    found = [host] if _is_address(host) else names_of(host, namespace)
    for alias in service.aliases:
        found += names_of(alias, namespace)
    if service.headless:
        found += [f"*.{domain}" for domain in found]
    found += [f"[{address}]" if ":" in address else address for address in service.addresses if "/" not in address]
    return tuple(dict.fromkeys(found))


def names_of(host: str, namespace: str) -> list[str]:
    """The names of a Kubernetes service for callers in `namespace`, the full name first."""
    return [host, f"{host}.", *_short_forms(host, namespace)]


def host_domains(host: str) -> tuple[str, ...]:
    """Domains of a host that only a VirtualService names."""
    return (f"[{host}]",) if ":" in host else (host,)


def _short_forms(host: str, namespace: str) -> list[str]:
    if not host.endswith(_SUFFIX):
        return []
    short = host.removesuffix(_SUFFIX)
    name, _, own = short.partition(".")
    if not own or "." in own:
        return []
    return [name, f"{short}.svc", short] if own == namespace else [short, f"{short}.svc"]


def _is_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdecimal()
