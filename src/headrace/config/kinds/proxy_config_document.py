"""ProxyConfig (networking.istio.io): how many threads proxies have, and their environment.

Lowered to `model.proxy_config.ProxyConfig`. The rules are Istio's (ValidateProxyConfig) and those of its CRD; the
settings of MeshConfig.defaultConfig, which has the same name in Istio, are in `proxy_config`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from headrace.config.documents import Document
from headrace.config.fields import Count, Text
from headrace.config.kinds.istio_names import selector_findings
from headrace.config.kinds.policy_scope import SelectorSpec
from headrace.config.kinds.proxy_config import ProxyImage
from headrace.config.schema import Finding, Kind, Spec
from headrace.model.proxy_config import ProxyConfig, ProxySettings
from headrace.model.resource import Metadata


class ProxyConfigDocument(Spec):
    """istio.networking.v1beta1.ProxyConfig."""

    selector: SelectorSpec | None = None
    concurrency: Count | None = None
    environment_variables: dict[Text, Annotated[Text, Field(max_length=2048)]] = {}
    image: ProxyImage | None = None


def _check(spec: ProxyConfigDocument, document: Document) -> Iterator[Finding]:
    if spec.selector is not None:
        yield from selector_findings(spec.selector.match_labels, ("spec", "selector", "matchLabels"))


def _lower(meta: Metadata, spec: ProxyConfigDocument, document: Document) -> ProxyConfig:
    return ProxyConfig(
        meta=meta,
        selector=dict(sorted(spec.selector.match_labels.items())) if spec.selector else {},
        settings=ProxySettings(spec.concurrency, tuple(sorted(spec.environment_variables.items()))),
    )


KIND = Kind(
    group="networking.istio.io",
    versions=("v1beta1",),
    name="ProxyConfig",
    model=ProxyConfigDocument,
    lower=_lower,
    check=_check,
    body_required=False,
    without_effect=("spec.image",),
)
