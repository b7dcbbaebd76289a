"""The ProxyConfig settings for a workload's proxy.

Called by `app` where replicas are planned. Rule (Istio): a document that selects the workload comes before that of its
namespace, that before the root namespace's, that before MeshConfig.defaultConfig; of several in one place the oldest
counts, and what one leaves open the wider one fills in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from headrace.model.mesh import MeshConfig
from headrace.model.proxy_config import UNSET, ProxyConfig, ProxySettings
from headrace.model.resource import Labels, selects


def settle_proxy(configs: Sequence[ProxyConfig], mesh: MeshConfig, namespace: str, labels: Labels) -> ProxySettings:
    """The settings for a workload; `configs` are ordered oldest first."""
    near = [item for item in configs if item.meta.namespace == namespace]
    own = _first(item for item in near if item.selector and selects(item.selector, labels))
    wide = _first(item for item in near if not item.selector)
    root = _first(item for item in configs if item.meta.namespace == mesh.root_namespace and not item.selector)
    return own.over(wide).over(root).over(mesh.proxy)


def _first(configs: Iterable[ProxyConfig]) -> ProxySettings:
    return next((item.settings for item in configs), UNSET)
