"""Kubernetes' core objects that only carry metadata for the mesh.

Made by `config.kinds`; `registry` reads the labels of namespaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.model.resource import Metadata


@dataclass(frozen=True, slots=True, eq=False)
class Namespace:
    """A Namespace document: its labels are what policies select namespaces by."""

    meta: Metadata


@dataclass(frozen=True, slots=True, eq=False)
class ServiceAccount:
    """A ServiceAccount document: the name that a workload's identity carries."""

    meta: Metadata


@dataclass(frozen=True, slots=True, eq=False)
class ConfigMap:
    """A ConfigMap document: text by key."""

    meta: Metadata
    data: Mapping[str, str] = field(repr=False)
