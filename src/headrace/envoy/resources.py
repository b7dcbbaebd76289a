"""xDS resources as the protocol sees them: a type, a name, bytes and a version.

Made by `envoy.translate` (and by the agent for its secrets), served by `envoy.xds`, which never looks inside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_PREFIX = "type.googleapis.com/"
LISTENER = _PREFIX + "envoy.config.listener.v3.Listener"
ROUTE = _PREFIX + "envoy.config.route.v3.RouteConfiguration"
CLUSTER = _PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINT = _PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
SECRET = _PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
EXTENSION = _PREFIX + "envoy.config.core.v3.TypedExtensionConfig"

TYPES = (CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, EXTENSION)
"""Every type we serve, in the order in which updates must be sent (make before break: xDS protocol,
"Eventual consistency considerations")."""


@dataclass(frozen=True, slots=True, eq=False)
class XdsResource:
    """One resource: `body` is the serialised message of `type_url`, `version` a hash of it (16 hex digits)."""

    type_url: str
    name: str
    body: bytes = field(repr=False)
    version: str

    @classmethod
    def of(cls, type_url: str, name: str, body: bytes) -> XdsResource:
        """A resource whose version is the hash of its bytes."""
        return cls(type_url, name, body, hashlib.blake2b(body, digest_size=8).hexdigest())


Resources = Mapping[str, XdsResource]
"""Resources of one type by name."""
_NONE: Resources = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class ResourceSet:
    """All that one proxy is sent: type URL → name → resource. Immutable; unchanged resources are the same objects
    from set to set."""

    by_type: Mapping[str, Resources] = field(default_factory=dict)

    def of_type(self, type_url: str) -> Resources:
        """The resources of one type (empty where there are none)."""
        return self.by_type.get(type_url, _NONE)

    @classmethod
    def collect(cls, resources: Iterable[XdsResource]) -> ResourceSet:
        """A set of these resources, names sorted; ValueError where two share type and name."""
        by_type: dict[str, dict[str, XdsResource]] = {}
        for resource in sorted(resources, key=lambda item: (item.type_url, item.name)):
            names = by_type.setdefault(resource.type_url, {})
            if resource.name in names:
                raise ValueError(f"two {resource.type_url} are called {resource.name!r}")
            names[resource.name] = resource
        return cls(by_type)
