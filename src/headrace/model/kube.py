"""Kubernetes' core objects that only carry metadata for the mesh.

Made by `config.kinds`; `registry` reads the labels of namespaces.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.model.resource import Metadata


@dataclass(frozen=True, slots=True, eq=False)
class Namespace:
    """A Namespace document: its labels are what policies select namespaces by."""

    meta: Metadata


@dataclass(frozen=True, slots=True, eq=False)
class ServiceAccount:
    """A ServiceAccount document: the name that a workload's identity carries."""

    meta: Metadata
