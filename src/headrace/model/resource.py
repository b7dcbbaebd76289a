"""What every resource has, whatever its kind: a key, labels, and where it came from.

Resources (`VirtualService`, `Service`, ...) compare by identity: `config` keeps one object for as long as the
document's content does not change, so an object can be a cache key at the cost of a pointer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Labels = Mapping[str, str]
"""Labels of a workload or a document. Never changed after it was made."""


@dataclass(frozen=True, slots=True, order=True)
class ResourceKey:
    """What names a document in the mesh: its API group and kind (`networking.istio.io/VirtualService`,
    core kinds without a group: `Service`), namespace (empty for cluster-wide kinds) and name."""

    kind: str
    namespace: str
    name: str

    @property
    def short_kind(self) -> str:
        """The kind without its API group."""
        return self.kind.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.short_kind} {self.namespace}/{self.name}" if self.namespace else f"{self.short_kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a document came from.

    `source` is the owner ("dir:/path", "api"), `file` and `line` the place of the document's first line, `created` is
    `metadata.creationTimestamp` in UTC (ISO 8601, so that text sorts as time does), empty where it is not written.
    """

    source: str
    file: str
    line: int
    created: str


@dataclass(frozen=True, slots=True)
class Metadata:
    """Metadata of a resource. `digest` is a hash of the document's content (not of its place)."""

    key: ResourceKey
    labels: Labels
    annotations: Labels
    origin: Origin
    digest: str

    @property
    def name(self) -> str:
        return self.key.name

    @property
    def namespace(self) -> str:
        return self.key.namespace

    def age(self) -> tuple[str, str, str]:
        """Sort key "oldest first", as Istio settles conflicts: by creation time (what has none is older), then name,
        then namespace. Never by file or position: the order of documents changes nothing."""
        return (self.origin.created, self.key.name, self.key.namespace)


def selects(selector: Labels, labels: Labels) -> bool:
    """Whether every label of `selector` stands in `labels` with the same value; an empty selector selects all."""
    return all(labels.get(name) == value for name, value in selector.items())
