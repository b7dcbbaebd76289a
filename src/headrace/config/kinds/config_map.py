"""`v1 ConfigMap`: text by name. The mesh reads the CA certificates that Gateway API documents name in one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import BeforeValidator

from headrace.config.documents import Document
from headrace.config.fields import Bool
from headrace.config.kinds.secret import MAX_DATA, Key
from headrace.config.schema import Finding, Kind, Spec, refuse
from headrace.model.kube import ConfigMap
from headrace.model.resource import Metadata


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise refuse("must be text", "Quote the value.")
    return value


class ConfigMapBody(Spec):
    """core/v1 ConfigMap."""

    data: dict[Key, Annotated[str, BeforeValidator(_text)]] = {}
    binary_data: dict[Key, Annotated[str, BeforeValidator(_text)]] = {}
    immutable: Bool = False


def _check(spec: ConfigMapBody, document: Document) -> Iterator[Finding]:
    if sum(len(text) for text in (*spec.data.values(), *spec.binary_data.values())) > MAX_DATA:
        yield Finding(("data",), f"a ConfigMap's values are larger than {MAX_DATA} bytes", "Split it.")
    for key in spec.data.keys() & spec.binary_data.keys():
        yield Finding(("binaryData", key), "this key stands in data too", "Remove one of them.")


def _lower(meta: Metadata, spec: ConfigMapBody, document: Document) -> ConfigMap:
    return ConfigMap(meta, dict(sorted(spec.data.items())))


KIND = Kind(group="", versions=("v1",), name="ConfigMap", model=ConfigMapBody, lower=_lower, body="", check=_check)
