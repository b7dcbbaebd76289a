"""Documents of every kind, crossed: each is put together from two or three documents of the goldens of the same kind.

So the generator knows every kind and field that some golden shows, and grows with them. Most crossings are valid; what
validation refuses is out of force, as in a mesh. Every choice comes from the given `random.Random`.
"""

from __future__ import annotations

import copy
import random
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from tests.goldens.random_documents import SERVICES

Data = dict[str, Any]

HERE = Path(__file__).parent
COMPANY = HERE.parent / "unit" / "house" / "coverage"
NAMESPACES = ("default", "default", "other", "istio-system")
STANDING = ("Pod", "Namespace", "Secret", "ServiceAccount")
"""Kinds that are taken as they are: a mesh needs workloads more than odd ones."""
PRIVATE_BY_EXPORT = ("VirtualService", "DestinationRule", "ServiceEntry")
PRIVATE_BY_NAMESPACE = (
    "Sidecar",
    "EnvoyFilter",
    "Telemetry",
    "WasmPlugin",
    "TrafficExtension",
    "ProxyConfig",
    "AuthorizationPolicy",
    "RequestAuthentication",
)
"""Kinds that reach only proxies of their own namespace; a PeerAuthentication also tells callers how to speak."""


@cache
def pool() -> dict[str, list[Data]]:
    """Every document of the goldens, by kind; without those that name files, which must be there."""
    found: dict[str, list[Data]] = {}
    for path in [*sorted(HERE.glob("*/input.yaml")), COMPANY / "documents.yaml"]:
        for item in yaml.safe_load_all(path.read_text()):
            if isinstance(item, dict) and isinstance(item.get("spec"), dict) and "file://" not in str(item):
                found.setdefault(item["kind"], []).append(_timeless(item))
    return found


def _timeless(item: Data) -> Data:
    """The document without its time, which YAML would write otherwise than it read it."""
    item["metadata"].pop("creationTimestamp", None)
    return item


class Crossed:
    """Makes meshes of documents."""

    def __init__(self, source: random.Random) -> None:
        self._random = source

    def mesh(self, count: int = 14) -> list[Data]:
        """A mesh: fixed services and workloads, and `count` crossed documents with distinct times."""
        kinds = [kind for kind in sorted(pool()) if kind not in STANDING]
        made = [self.document(self._random.choice(kinds), number) for number in range(count)]
        fixed: list[Data] = [item for item in yaml.safe_load_all(SERVICES) if item]
        return fixed + made

    def document(self, kind: str, number: int) -> Data:
        """One document of a kind."""
        parents = [self._random.choice(pool()[kind]) for _ in range(self._random.choice((1, 2, 2, 3)))]
        made = copy.deepcopy(parents[0])
        for other in parents[1:]:
            made["spec"] = self._cross(made["spec"], other["spec"])
        made["metadata"] |= {
            "name": f"{kind.lower()}-{number}",
            "namespace": self._random.choice(NAMESPACES),
            "creationTimestamp": f"2026-01-01T00:00:{number:02}Z",
        }
        return made

    def private(self, number: int) -> Data:
        """A document of namespace `other` that says nothing to anybody else."""
        known = [kind for kind in (*PRIVATE_BY_EXPORT, *PRIVATE_BY_NAMESPACE) if kind in pool()]
        made = self.document(self._random.choice(known), number)
        made["metadata"]["namespace"] = "other"
        if made["kind"] in PRIVATE_BY_EXPORT:
            made["spec"]["exportTo"] = ["."]
        return made

    def shuffled(self, documents: list[Data]) -> list[Data]:
        """The same documents in another order."""
        return self._random.sample(documents, len(documents))

    def _cross(self, one: Any, other: Any) -> Any:
        """A value between two: of mappings some of either's fields, of lists some of either's items."""
        if isinstance(one, dict) and isinstance(other, dict):
            return {
                name: self._cross(one[name], other[name])
                if name in one and name in other
                else copy.deepcopy(one.get(name, other.get(name)))
                for name in {**one, **other}
                if (name in one and name in other) or self._random.random() < 0.7
            }
        if isinstance(one, list) and isinstance(other, list):
            both = [*one, *other]
            return copy.deepcopy(self._random.sample(both, self._random.randint(1, len(both)))) if both else []
        return copy.deepcopy(self._random.choice((one, other)))


def text_of(documents: list[Data]) -> str:
    """Documents as a file."""
    return yaml.safe_dump_all(documents, sort_keys=False)
