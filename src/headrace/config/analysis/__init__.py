"""Judgements across documents: what single documents cannot show.

Called by `headrace check` and by `config.revision` after each change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.model.mesh import MeshConfig
from headrace.model.problem import Problem
from headrace.model.resource import ResourceKey


def analyse(resources: Mapping[ResourceKey, Any], mesh: MeshConfig) -> list[Problem]:
    """Judge all resources together."""
    return []
