"""Security policy: what a PeerAuthentication says (istio.security.v1.PeerAuthentication), and key material by name.

Made by `config.kinds`, read by `envoy.translate`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from headrace.model.resource import Labels, Metadata


class MtlsMode(StrEnum):
    """PeerAuthentication.MutualTLS.Mode; UNSET inherits from the wider scope (PERMISSIVE at the top)."""

    UNSET = "UNSET"
    DISABLE = "DISABLE"
    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


@dataclass(frozen=True, slots=True, eq=False)
class PeerAuthentication:
    """A PeerAuthentication; `selector` None or empty: the whole namespace (the mesh, in the root namespace)."""

    meta: Metadata
    selector: Labels
    mode: MtlsMode = MtlsMode.UNSET
    port_modes: tuple[tuple[int, MtlsMode], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Secret:
    """A Secret document. `data` is decoded bytes by key and never shown in repr, logs or errors."""

    meta: Metadata
    data: dict[str, bytes] = field(repr=False)
