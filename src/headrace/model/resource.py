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

    `source` is the owner ("dir:/path", "api"), `file` and `line` the place of the document's first line, `order` a
    stable substitute for Kubernetes' creation time: Istio settles conflicts by age, then name, then namespace; with
    files, `metadata.creationTimestamp` if given, else path and position (istio-semantics.md, "Ordering").
    """

    source: str
    file: str
    line: int
    order: tuple[str, str, int]


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

    def age(self) -> tuple[tuple[str, str, int], str, str]:
        """Sort key "oldest first", as Istio orders documents that conflict."""
        return (self.origin.order, self.key.name, self.key.namespace)


def selects(selector: Labels, labels: Labels) -> bool:
    """Whether every label of `selector` stands in `labels` with the same value; an empty selector selects all."""
    return all(labels.get(name) == value for name, value in selector.items())
