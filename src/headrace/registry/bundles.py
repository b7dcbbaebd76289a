"""CA certificates in ConfigMaps, as credentials: `configmap://NAMESPACE/NAME`.

Called by `registry.build` for DestinationRules, which may name ConfigMaps of their own namespace, and by
`registry.gateway_api`. A bundle is public: whoever follows the rule gets it.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.model.kube import ConfigMap
from headrace.model.security import Secret
from headrace.registry.documents import Documents

SCHEME = "configmap://"
ROOTS = ("cacert", "ca.crt")
"""Keys of a CA: Istio's generic form, then kubernetes.io/tls."""


def bundle(config: ConfigMap, old: Secret | None) -> Secret:
    """What a ConfigMap holds of CA certificates; `old` where it was made of the same document."""
    if old is not None and old.meta is config.meta:
        return old
    return Secret(config.meta, {key: config.data[key].encode() for key in ROOTS if key in config.data})


def named_bundles(documents: Documents, previous: Mapping[str, Secret]) -> dict[str, Secret]:
    """The bundles that DestinationRules name, by the name that they use."""
    found: dict[str, Secret] = {}
    wanted = {
        tls.credential_name: rule.meta.namespace
        for rule in documents.destination_rules
        for policy in rule.policies()
        for tls in (policy.tls, *(port.tls for port in policy.ports))
        if tls is not None and tls.credential_name.startswith(SCHEME)
    }
    if not wanted:
        return found
    configs = {(item.meta.namespace, item.meta.name): item for item in documents.of(ConfigMap)}
    for uri, namespace in sorted(wanted.items()):
        owner, _, name = uri.removeprefix(SCHEME).partition("/")
        config = configs.get((owner, name))
        if config is not None and owner == namespace:
            found[uri] = bundle(config, previous.get(uri))
    return found
