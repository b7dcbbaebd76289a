"""Settings of single proxies (istio.networking.v1beta1.ProxyConfig, MeshConfig.defaultConfig, the annotation
`proxy.istio.io/config`), as far as Headrace acts on them.

Made by `config.kinds.proxy_config_document` and `config.kinds.mesh_config`, settled for a workload by
`registry.proxy_configs`.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.model.resource import Labels, Metadata
from headrace.model.traffic import Pairs

ANNOTATION = "proxy.istio.io/config"
"""Annotation of a workload whose value is YAML of a ProxyConfig; it comes before the documents."""


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """What may be set of a proxy; None: not written. `concurrency` is the number of worker threads (0: one per core).
    `variables` are environment variables of Envoy."""

    concurrency: int | None = None
    variables: Pairs = ()

    def over(self, wider: ProxySettings) -> ProxySettings:
        """These settings where they say something, else those of the wider scope."""
        concurrency = wider.concurrency if self.concurrency is None else self.concurrency
        return ProxySettings(concurrency, tuple(sorted((dict(wider.variables) | dict(self.variables)).items())))


UNSET = ProxySettings()
"""Nothing is said."""


@dataclass(frozen=True, slots=True, eq=False)
class ProxyConfig:
    """A ProxyConfig document; `selector` empty: the whole namespace (the mesh, in the root namespace)."""

    meta: Metadata
    selector: Labels
    settings: ProxySettings
