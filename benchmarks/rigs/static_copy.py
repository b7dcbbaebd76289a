"""What a mesh's Envoy runs, as static resources for an Envoy of its own, so that one thing at a time can be taken away.

Read by mesh_overhead_parts.py. Certificates come from files instead of SDS, endpoints and routes stand in place.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace.app.api.client import UnixConnection

Json = dict[str, Any]


def config_dump(admin: Path) -> Json:
    """The configuration of the Envoy with this admin socket."""
    connection = UnixConnection(admin, 10.0)
    try:
        connection.request("GET", "/config_dump?include_eds")
        found: Json = json.loads(connection.getresponse().read())
        return found
    finally:
        connection.close()


def each(node: Any, visit: Callable[[Json], None]) -> None:
    """Call `visit` with every object of a tree, outer ones first."""
    if isinstance(node, dict):
        visit(node)
        for value in list(node.values()):
            each(value, visit)
    elif isinstance(node, list):
        for value in node:
            each(value, visit)


def static_copy(dump: Json, certificates: Path, own: str, credentials: str) -> Json:
    """Listeners and clusters of a dump as `static_resources`.

    `certificates` holds root.pem and for `own` NAME.pem and NAME.key; `credentials` are those that the dump hides.
    """
    parts = {part["@type"].rsplit(".", 1)[1]: part for part in dump["configs"]}
    routes = _by_name(parts, "RoutesConfigDump", "dynamic_route_configs", "route_config", "name")
    endpoints = _by_name(parts, "EndpointsConfigDump", "dynamic_endpoint_configs", "endpoint_config", "cluster_name")
    listeners = [item["active_state"]["listener"] for item in parts["ListenersConfigDump"]["dynamic_listeners"]]
    clusters = [item["cluster"] for item in parts["ClustersConfigDump"]["dynamic_active_clusters"]]
    for cluster in clusters:
        if cluster.pop("eds_cluster_config", None) is not None:
            cluster["type"] = "STATIC"
            cluster["load_assignment"] = endpoints.get(cluster["name"], {"cluster_name": cluster["name"]})
    copy: Json = json.loads(json.dumps({"listeners": listeners, "clusters": clusters}))

    def settle(node: Json) -> None:
        if "rds" in node:
            node["route_config"] = routes[node.pop("rds")["route_config_name"]]
        if "tls_certificate_sds_secret_configs" in node:
            del node["tls_certificate_sds_secret_configs"]
            names = {"certificate_chain": f"{own}.pem", "private_key": f"{own}.key"}
            node["tls_certificates"] = [{key: {"filename": str(certificates / file)} for key, file in names.items()}]
        if "combined_validation_context" in node:
            rules = node.pop("combined_validation_context")["default_validation_context"]
            node["validation_context"] = {**rules, "trusted_ca": {"filename": str(certificates / "root.pem")}}
        if "users" in node:
            node["users"] = {"inline_string": credentials}

    each(copy, settle)
    for resource in (*copy["listeners"], *copy["clusters"]):
        resource.pop("@type", None)
    return copy


def _by_name(parts: Json, part: str, field: str, inner: str, key: str) -> Json:
    found = {}
    for item in parts.get(part, {}).get(field, ()):
        value = {name: content for name, content in item[inner].items() if name != "@type"}
        found[value[key]] = value
    return found
