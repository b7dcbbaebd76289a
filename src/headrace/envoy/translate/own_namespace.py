"""A sidecar with a network namespace of its own: the transparent shape for IPv4 and IPv6, with answers for names.

Called by `envoy.translate` for sidecars whose Capture says so, as an overlay: listeners on any address take IPv6 too,
the application is called at 127.0.0.1 where the agent says that it listens, and one more listener answers questions
for names: services of the mesh by itself, everything else through the machine's own resolver.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import address_pb2
from envoy.config.listener.v3 import listener_pb2, udp_listener_config_pb2
from envoy.data.dns.v3 import dns_table_pb2
from envoy.extensions.filters.udp.dns_filter.v3 import dns_filter_pb2
from envoy.extensions.network.dns_resolver.cares.v3 import cares_dns_resolver_pb2

from headrace.envoy.resources import CLUSTER, LISTENER, XdsResource
from headrace.envoy.translate import inbound
from headrace.envoy.translate.domains import service_domains
from headrace.envoy.translate.endpoints import is_address
from headrace.envoy.translate.memo import Memo, resource_of
from headrace.envoy.translate.messages import duration, packed, serialized, socket_address
from headrace.envoy.view import ProxyView, Target
from headrace.model.service import Service

NAMES = "names"
NAMES_PORT = 15053
"""The number of Istio's agent for the same."""
_ANY, _ANY6 = "0.0.0.0", "::"  # noqa: S104 - of a namespace that holds one application
_LOCAL_SOURCE6 = "::6"
_LIFE = 30.0
"""Seconds for which an answer may be kept; Envoy takes no less."""
_ASK_SECONDS = 5.0
_PENDING = 256
_VIRTUAL = ("virtualOutbound", inbound.VIRTUAL_INBOUND)

_Table = tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
"""Names, and the addresses that each of them stands for."""


def both_families(memo: Memo, listeners: Iterable[XdsResource]) -> tuple[XdsResource, ...]:
    """The same listeners; those on any address take IPv6 too."""
    return tuple(memo.get("both families", listener, _both_families, listener) for listener in listeners)


def _both_families(listener: XdsResource) -> XdsResource:
    address, _, port = listener.name.rpartition("_")
    if listener.name in _VIRTUAL:
        number = inbound.VIRTUAL_INBOUND_PORT if listener.name == inbound.VIRTUAL_INBOUND else 15001
    elif address == _ANY:
        number = int(port)
    else:
        return listener
    more = listener_pb2.Listener(
        additional_addresses=[listener_pb2.AdditionalAddress(address=socket_address(_ANY6, number))]
    )
    # Messages concatenate in the wire format: nothing has to be read again.
    return XdsResource.of(LISTENER, listener.name, listener.body + serialized(more))


def resources(memo: Memo, view: ProxyView) -> Sequence[XdsResource]:
    """The inbound side, and the listener for names."""
    own = tuple(inbound.resources(memo, view.for_listeners()))
    app_ports = view.instance.capture.app_ports
    found = memo.get("own namespace", (own, view.inbound, view.scope.mesh, app_ports), _inbound, own, view)
    return (*found, _names_listener(memo, view))


def _names_listener(memo: Memo, view: ProxyView) -> XdsResource:
    """The listener for names: one for all proxies of a scope, new where services or headless endpoints changed."""
    scope = view.scope
    headless = memo.latest("headless names", scope.key, scope.targets, _headless, scope.targets)
    key = (scope.targets, tuple(view.endpoints_of(target) for target in headless))
    return memo.latest("names", scope.key, key, lambda: _listener(_table(view)))


def _headless(targets: Iterable[Target]) -> tuple[Target, ...]:
    return tuple(target for target in targets if target.service.headless)


def _inbound(own: Sequence[XdsResource], view: ProxyView) -> tuple[XdsResource, ...]:
    """Clusters of the workload's ports lead to 127.0.0.1 instead of the original address; others stay."""
    local = {
        cluster.name: resource_of(CLUSTER, cluster.name, cluster)
        for cluster in inbound.local_clusters(view.inbound, view.scope.mesh, view.instance.capture.app_ports)
    }
    found = []
    for resource in own:
        if resource.type_url == LISTENER:
            found.append(_both_families(resource))
        elif resource.name == inbound.INBOUND_PASSTHROUGH:
            found.append(XdsResource.of(CLUSTER, resource.name, resource.body + serialized(_source6())))
        else:
            found.append(local.get(resource.name, resource) if resource.type_url == CLUSTER else resource)
    return tuple(found)


def _source6() -> Any:
    source = address_pb2.SocketAddress(address=_LOCAL_SOURCE6, port_value=0)
    return cluster_pb2.Cluster(
        upstream_bind_config=address_pb2.BindConfig(
            extra_source_addresses=[address_pb2.ExtraSourceAddress(address=source)]
        )
    )


def _table(view: ProxyView) -> _Table:
    """Every name that a caller of this scope may look up with the addresses behind it; the first of a name has it."""
    found: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    taken: set[str] = set()
    for target in view.scope.targets:
        addresses = _addresses(view, target)
        if addresses:
            names = tuple(name for name in _names(target.service, view.scope.namespace) if name not in taken)
            taken.update(names)
            found.append((names, addresses))
    return tuple(found)


def _addresses(view: ProxyView, target: Target) -> tuple[str, ...]:
    service = target.service
    if service.headless:
        return tuple(sorted({item.address for item in view.endpoints_of(target) if is_address(item.address)}))
    return tuple(address for address in service.addresses if "/" not in address)


def _names(service: Service, namespace: str) -> Iterator[str]:
    for name in service_domains(service, namespace):
        if "*" not in name and not name.endswith(".") and not is_address(name.strip("[]")):
            yield name


def _listener(table: _Table) -> XdsResource:
    domains = [_domain(name, addresses) for names, addresses in table for name in names]
    resolver = cares_dns_resolver_pb2.CaresDnsResolverConfig()
    resolver.dns_resolver_options.no_default_search_domain = True
    resolver.query_timeout_seconds.value, resolver.query_tries.value = int(_ASK_SECONDS), 1
    config = dns_filter_pb2.DnsFilterConfig(
        stat_prefix=NAMES,
        server_config=dns_filter_pb2.DnsFilterConfig.ServerContextConfig(
            inline_dns_table=dns_table_pb2.DnsTable(virtual_domains=domains)
        ),
        client_config=dns_filter_pb2.DnsFilterConfig.ClientContextConfig(
            resolver_timeout=duration(_ASK_SECONDS), max_pending_lookups=_PENDING
        ),
    )
    config.client_config.typed_dns_resolver_config.name = "envoy.network.dns_resolver.cares"
    config.client_config.typed_dns_resolver_config.typed_config.CopyFrom(packed(resolver))
    listener = listener_pb2.Listener(
        name=NAMES,
        address=_udp(_ANY),
        additional_addresses=[listener_pb2.AdditionalAddress(address=_udp(_ANY6))],
        udp_listener_config=udp_listener_config_pb2.UdpListenerConfig(),
    )
    listener.listener_filters.add(name="envoy.filters.udp.dns_filter").typed_config.CopyFrom(packed(config))
    return resource_of(LISTENER, NAMES, listener)


def _domain(name: str, addresses: Sequence[str]) -> Any:
    domain = dns_table_pb2.DnsTable.DnsVirtualDomain(name=name, answer_ttl=duration(_LIFE))
    domain.endpoint.address_list.address.extend(addresses)
    return domain


def _udp(host: str) -> Any:
    address = address_pb2.SocketAddress(protocol=address_pb2.SocketAddress.UDP, address=host, port_value=NAMES_PORT)
    return address_pb2.Address(socket_address=address)
