"""The values of an EnvoyFilter's patches: pieces of Envoy's own configuration, as JSON.

Used by `envoy_filter`. The rules are Istio's (BuildXDSObjectFromStruct, validateDeprecatedFilterTypes,
validateMissingTypedConfigFilterTypes); what Envoy itself refuses shows when a proxy is sent it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import re2

from headrace.config.documents import Path
from headrace.config.fields import shown
from headrace.config.kinds.istio_names import warning
from headrace.config.schema import NO_EFFECT, Finding
from headrace.model.envoy_filter import ISTIO_VERSION, ApplyTo
from headrace.model.problem import Severity
from headrace.wire.envoy_types import (
    NotBuiltError,
    UnknownTypeError,
    WrongMessageError,
    filters_without_config,
    message_from_json,
    unknown_fields,
)

MESSAGES = {
    ApplyTo.LISTENER: "envoy.config.listener.v3.Listener",
    ApplyTo.FILTER_CHAIN: "envoy.config.listener.v3.FilterChain",
    ApplyTo.NETWORK_FILTER: "envoy.config.listener.v3.Filter",
    ApplyTo.LISTENER_FILTER: "envoy.config.listener.v3.ListenerFilter",
    ApplyTo.HTTP_FILTER: "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
    ApplyTo.ROUTE_CONFIGURATION: "envoy.config.route.v3.RouteConfiguration",
    ApplyTo.VIRTUAL_HOST: "envoy.config.route.v3.VirtualHost",
    ApplyTo.HTTP_ROUTE: "envoy.config.route.v3.Route",
    ApplyTo.CLUSTER: "envoy.config.cluster.v3.Cluster",
    ApplyTo.EXTENSION_CONFIG: "envoy.config.core.v3.TypedExtensionConfig",
    ApplyTo.BOOTSTRAP: "envoy.config.bootstrap.v3.Bootstrap",
}
"""Whose message a patch's value is."""


_ENUM = " for enum type "
"""What protobuf says of a value that an enum does not have."""


def value_findings(kind: ApplyTo, value: Mapping[str, Any] | None, path: Path) -> Iterator[Finding]:
    """Judge a value: it must be the message that Envoy has for such an object."""
    if value is None:
        return
    try:
        message = message_from_json(MESSAGES[kind], value)
    except NotBuiltError as error:
        text = f"{shown(error.url)} is no part of Envoy as Headrace runs it: the patch is left out"
        yield Finding(path, text, "Use an extension of Envoy's own.", NO_EFFECT, Severity.WARNING)
        return
    except UnknownTypeError as error:
        remedy = "Write type.googleapis.com/ and the full name of a message of Envoy's API v3."
        yield Finding(path, f"{shown(error.url)} is no type that Envoy knows", remedy)
        return
    except WrongMessageError as error:
        yield Finding(path, f"is not a {MESSAGES[kind].rpartition('.')[2]} as Envoy reads it: {error}")
        return
    unknown = unknown_fields(MESSAGES[kind], value)
    if _ENUM in unknown:  # a parser that leaves unknown fields out leaves these out, too
        yield Finding(path, f"is not a {MESSAGES[kind].rpartition('.')[2]} as Envoy reads it: {unknown}")
    elif unknown:
        yield warning(path, f"has a field that Envoy does not know, and which is left out: {unknown}")
    for name in filters_without_config(message):
        yield warning(path, f"{shown(name)} has no typed_config: Envoy does not find filters by name", "Add it.")


def version_matches(pattern: str, longest: int) -> bool:
    """Whether proxies here are of a version that the pattern finds; a pattern that is too long finds none."""
    return len(pattern) <= longest and re2.search(pattern, ISTIO_VERSION) is not None
