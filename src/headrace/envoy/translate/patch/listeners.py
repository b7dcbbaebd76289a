"""Patches of listeners and of all that stands in them: filter chains, network and HTTP filters, listener filters.

Called by `patch`. The rules are Istio's (listener_patch.go): first what is there is removed and merged, level by level,
then what is new is put in; a removal ends what concerns its object.
"""

from __future__ import annotations

from typing import Any

from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf.message import DecodeError

from headrace.envoy.translate.hcm import HCM_FILTER
from headrace.envoy.translate.messages import packed
from headrace.envoy.translate.patch.choice import ROUTE_PARTS, Chosen, Read
from headrace.envoy.translate.patch.merge import change_filters, merge, merge_any, merge_filter, named, replace_all
from headrace.envoy.translate.patch.routes import patch_routes
from headrace.model.envoy_filter import ApplyTo, ListenerMatch, Operation

_VIRTUAL = ("virtualInbound", "virtualOutbound")


def patch_listener(listener: Any, chosen: Chosen) -> bool:
    """Apply the patches in place; False: the listener is removed."""
    for item in chosen.of(ApplyTo.LISTENER):
        if not _listener_matches(listener, item):
            continue
        if item.operation is Operation.REMOVE:
            return False
        if item.operation.merges:
            merge(listener, item.value, replace_lists=item.operation is Operation.MERGE_AND_REPLACE_LIST)
    _patch_listener_filters(listener, chosen)
    _patch_chains(listener, chosen)
    return True


def _patch_listener_filters(listener: Any, chosen: Chosen) -> None:
    for item in chosen.of(ApplyTo.LISTENER_FILTER):
        if not _listener_matches(listener, item):
            continue
        match = item.patch.listener
        wanted = match.listener_filter if match is not None else ""
        if item.operation is Operation.MERGE:
            for held in listener.listener_filters:
                if wanted and held.name == wanted:
                    merge_filter(held, item.value)
        else:
            change_filters(listener.listener_filters, item.patch, item.value, named(wanted or None))


def _patch_chains(listener: Any, chosen: Chosen) -> None:
    kept = [chain for chain in listener.filter_chains if _chain_stays(listener, chain, chosen)]
    if len(kept) < len(listener.filter_chains):
        replace_all(listener.filter_chains, kept)
    if listener.HasField("default_filter_chain") and not _chain_stays(listener, listener.default_filter_chain, chosen):
        listener.ClearField("default_filter_chain")
    for item in chosen.of(ApplyTo.FILTER_CHAIN):
        if item.operation is Operation.ADD and _listener_matches(listener, item) and item.value.filters:
            listener.filter_chains.append(item.value)


def _chain_stays(listener: Any, chain: Any, chosen: Chosen) -> bool:
    """Patch one chain; whether it stays. One that has no filters is left alone."""
    if not chain.filters:
        return True
    for item in chosen.of(ApplyTo.FILTER_CHAIN):
        if not (_listener_matches(listener, item) and _chain_matches(listener, chain, item)):
            continue
        if item.operation is Operation.REMOVE:
            return False
        if item.operation.merges and not _merged_socket(chain, item.value):
            merge(chain, item.value, replace_lists=item.operation is Operation.MERGE_AND_REPLACE_LIST)
    _patch_network_filters(listener, chain, chosen)
    return bool(chain.filters)


def _merged_socket(chain: Any, change: Any) -> bool:
    """Whether the patch is a transport socket for the one of the same name: then it is all that is taken from it."""
    if not change.HasField("transport_socket") or not chain.HasField("transport_socket"):
        return False
    if chain.transport_socket.name != change.transport_socket.name:
        return False
    if change.transport_socket.HasField("typed_config") and chain.transport_socket.HasField("typed_config"):
        merge_any(chain.transport_socket.typed_config, change.transport_socket.typed_config)
    return True


def _patch_network_filters(listener: Any, chain: Any, chosen: Chosen) -> None:
    reads = [
        item
        for item in chosen.of(ApplyTo.NETWORK_FILTER)
        if _listener_matches(listener, item) and _chain_matches(listener, chain, item)
    ]
    for item in reads:
        if not item.operation.merges:
            change_filters(chain.filters, item.patch, item.value, named(_filter_name(item)))
    for held in chain.filters:
        for item in reads:
            if item.operation is Operation.MERGE and _filter_name(item) in (None, held.name):
                merge_filter(held, item.value)
        if held.name == HCM_FILTER:
            _patch_manager(listener, chain, held, chosen)


def _patch_manager(listener: Any, chain: Any, held: Any, chosen: Chosen) -> None:
    """Patch the routes and HTTP filters of a connection manager."""
    reads = [
        item
        for item in chosen.of(ApplyTo.HTTP_FILTER)
        if _listener_matches(listener, item)
        and _chain_matches(listener, chain, item)
        and _filter_name(item) in (None, held.name)
    ]
    routes = chosen.any_of(ROUTE_PARTS)
    if not (reads or routes) or not held.HasField("typed_config"):
        return
    manager = hcm_pb2.HttpConnectionManager()
    try:
        if not held.typed_config.Unpack(manager):
            return
    except DecodeError:
        return
    if routes and manager.HasField("route_config"):
        patch_routes(manager.route_config, chosen, {})
    for item in reads:
        if not item.operation.merges:
            change_filters(manager.http_filters, item.patch, item.value, named(_sub_filter_name(item)))
    for one in manager.http_filters:
        for item in reads:
            if item.operation is Operation.MERGE and _sub_filter_name(item) in (None, one.name):
                merge_filter(one, item.value)
    held.typed_config.CopyFrom(packed(manager))


def _filter_name(item: Read) -> str | None:
    return item.patch.listener.filter if item.patch.listener is not None else None


def _sub_filter_name(item: Read) -> str | None:
    return item.patch.listener.sub_filter if item.patch.listener is not None else None


def _listener_matches(listener: Any, item: Read) -> bool:
    match = item.patch.listener
    if match is None:
        return True
    if match.name and match.name != listener.name:
        return False
    if item.patch.apply_to is not ApplyTo.LISTENER and listener.name in _VIRTUAL:
        return True  # their chains are chosen by port
    return not match.port or listener.address.socket_address.port_value == match.port


def _chain_matches(listener: Any, chain: Any, item: Read) -> bool:
    match = item.patch.listener
    if match is None:
        return True
    criteria = chain.filter_chain_match
    if listener.name in _VIRTUAL and match.port and criteria.destination_port.value != match.port:
        return False
    return _chain_fits(match, chain, criteria)


def _chain_fits(match: ListenerMatch, chain: Any, criteria: Any) -> bool:
    return (
        match.chain_name in ("", chain.name)
        and (not match.sni or match.sni in criteria.server_names)
        and match.transport_protocol in ("", criteria.transport_protocol)
        and all(word in criteria.application_protocols for word in match.application_protocols)
        and match.destination_port in (0, criteria.destination_port.value)
    )
