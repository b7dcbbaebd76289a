"""LoadBalancerSettings of a DestinationRule: simple policies, consistent hashes, localities, warm-up.

Used by `destination_rule`, and by `mesh_config` for its localities.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from headrace.config.documents import Path
from headrace.config.fields import AnyDuration, Bool, EnumOf, Number, Text, UInt32, UInt64, number, shown, whole
from headrace.config.kinds.istio_names import Timespan, at_most_one, set_fields, spelled, warning
from headrace.config.schema import NO_EFFECT, NOT_SUPPORTED, Finding, Spec, refuse
from headrace.model.destination import ConsistentHash, LbPolicy, LoadBalancer, LocalityLb, Warmup
from headrace.model.locality import TOPOLOGY
from headrace.model.problem import Severity

MAGLEV_LIMIT = 5_000_011
"""Envoy's bound of a Maglev table."""

SimpleLb = Annotated[
    LbPolicy,
    EnumOf(
        LbPolicy,
        {0: "UNSPECIFIED", 1: "LEAST_CONN", 2: "RANDOM", 3: "PASSTHROUGH", 4: "ROUND_ROBIN", 5: "LEAST_REQUEST"},
        {"LEAST_CONN": "LEAST_REQUEST"},
    ),
]


class CookieAttributeSpec(Spec):
    """ConsistentHashLB.HTTPCookie.Attribute."""

    name: Text
    value: Text = ""


class CookieSpec(Spec):
    """ConsistentHashLB.HTTPCookie; without `ttl` no cookie is made."""

    name: Text
    path: Text = ""
    ttl: AnyDuration | None = None
    attributes: list[CookieAttributeSpec] = []

    @model_validator(mode="after")
    def _names(self) -> CookieSpec:
        if not self.name:
            raise refuse("a cookie needs a name", "Add name.", at=("name",))
        known: set[str] = set()
        for at, attribute in enumerate(self.attributes):
            if not attribute.name:
                raise refuse("an attribute needs a name", at=("attributes", at, "name"))
            if attribute.name in known:
                raise refuse(f"{shown(attribute.name)} stands twice", "Remove one.", at=("attributes", at, "name"))
            known.add(attribute.name)
        return self


class RingHashSpec(Spec):
    """ConsistentHashLB.RingHash."""

    minimum_ring_size: UInt64 = 0


class MaglevSpec(Spec):
    """ConsistentHashLB.MagLev."""

    table_size: UInt64 = 0

    @model_validator(mode="after")
    def _size(self) -> MaglevSpec:
        size = self.table_size
        if not 0 < size < MAGLEV_LIMIT or any(size % factor == 0 for factor in range(2, math.isqrt(size) + 1)):
            remedy = f"Use a prime number below {MAGLEV_LIMIT}, such as 65537."
            raise refuse(f"{size} is not the size of a Maglev table", remedy, at=("tableSize",))
        return self


class ConsistentHashSpec(Spec):
    """ConsistentHashLB."""

    http_header_name: Text | None = None
    http_cookie: CookieSpec | None = None
    use_source_ip: Bool | None = None
    http_query_parameter_name: Text | None = None
    ring_hash: RingHashSpec | None = None
    maglev: MaglevSpec | None = None
    minimum_ring_size: UInt64 = 0

    @model_validator(mode="after")
    def _exclusive(self) -> ConsistentHashSpec:
        at_most_one(self, "http_header_name", "http_cookie", "use_source_ip", "http_query_parameter_name")
        at_most_one(self, "ring_hash", "maglev")
        if self.minimum_ring_size and (self.ring_hash or self.maglev):
            raise refuse("minimumRingSize excludes ringHash and maglev", "Use ringHash.", at=("minimumRingSize",))
        return self


class DistributeSpec(Spec):
    """LocalityLoadBalancerSetting.Distribute: percentages per locality."""

    from_: Text = Field("", alias="from")
    to: dict[Text, UInt32] = {}

    @model_validator(mode="after")
    def _whole(self) -> DistributeSpec:
        for locality, weight in self.to.items():
            if not 1 <= weight <= 100:
                raise refuse(f"{weight} is not a locality's weight", "Use 1 to 100.", at=("to", locality))
        if sum(self.to.values()) != 100:
            raise refuse(f"the weights add up to {sum(self.to.values())}", "They must add up to 100.", at=("to",))
        check_localities(sorted(self.to, key=lambda locality: locality.endswith("*")), ("to",))
        return self


class FailoverSpec(Spec):
    """LocalityLoadBalancerSetting.Failover: from one region to another."""

    from_: Text = Field("", alias="from")
    to: Text = ""

    @model_validator(mode="after")
    def _regions(self) -> FailoverSpec:
        if self.from_ == self.to:
            raise refuse("failover needs two different regions", "Change from or to.", at=("to",))
        for field, region in (("from", self.from_), ("to", self.to)):
            if "/" in region or "*" in region:
                raise refuse(f"{shown(region)} is not a region", "Name a region, no zone or '*'.", at=(field,))
        return self


class LocalityLbSpec(Spec):
    """LocalityLoadBalancerSetting."""

    distribute: list[DistributeSpec] = []
    failover: list[FailoverSpec] = []
    failover_priority: list[Text] = []
    enabled: Bool | None = None

    @model_validator(mode="after")
    def _exclusive(self) -> LocalityLbSpec:
        if self.distribute and self.failover:
            raise refuse("distribute and failover exclude each other", "Keep one of them.", at=("failover",))
        for at, label in enumerate(self.failover_priority if self.failover else ()):
            if label in TOPOLOGY:
                raise refuse(f"failover excludes {label} here", "Remove one.", at=("failoverPriority", at))
        check_localities([rule.from_ for rule in self.distribute], ("distribute",))
        return self


class ZoneAwareLbSpec(Spec):
    """ZoneAwareLoadBalancerSetting."""

    enabled: Bool | None = None
    failover: list[FailoverSpec] = []
    failover_priority: list[Text] = []
    min_cluster_size: Annotated[int, BeforeValidator(whole(1, 2**64 - 1))] | None = None

    @model_validator(mode="after")
    def _labels(self) -> ZoneAwareLbSpec:
        for at, label in enumerate(self.failover_priority):
            if label in TOPOLOGY:
                raise refuse(f"{label} is always considered", "Remove it.", at=("failoverPriority", at))
        return self


def check_localities(localities: Iterable[str], at: Path) -> None:
    """Refuse localities (`region/zone/subzone`, `*` last) with empty parts, or that an earlier one holds. One with `*`
    may stand behind what it holds, as "all others"."""
    known: list[tuple[str, ...]] = []
    for locality in localities:
        parts = tuple(locality.split("/", 2))
        if "" in parts or "*" in locality[:-1]:
            raise refuse(f"{shown(locality)} is not a locality", "Write region/zone/subzone, '*' only last.", at=at)
        named = _named_parts(locality)
        for other in known:
            if named[: len(other)] == other or (named == parts and other[: len(named)] == named):
                raise refuse(f"{shown(locality)} overlaps an earlier locality", "Remove one.", at=at)
        known.append(named)


def _named_parts(locality: str) -> tuple[str, ...]:
    return tuple(part for part in locality.split("/", 2) if part != "*")


def _narrowest_first(localities: Iterable[str]) -> list[str]:
    """A mapping's localities, so that `*` stands for what the others leave."""
    return sorted(localities, key=lambda locality: (-len(_named_parts(locality)), locality))


class WarmupSpec(Spec):
    """WarmupConfiguration."""

    duration: Timespan
    minimum_percent: Annotated[float, BeforeValidator(number(0, 100))] | None = None
    aggression: Number | None = None

    @model_validator(mode="after")
    def _positive(self) -> WarmupSpec:
        if self.aggression is not None and self.aggression <= 0:
            raise refuse("aggression must be greater than 0", at=("aggression",))
        return self


class LoadBalancerSpec(Spec):
    """LoadBalancerSettings."""

    simple: SimpleLb | None = None
    consistent_hash: ConsistentHashSpec | None = None
    locality_lb_setting: LocalityLbSpec | None = None
    zone_aware_lb_setting: ZoneAwareLbSpec | None = None
    warmup_duration_secs: Timespan | None = None
    warmup: WarmupSpec | None = None

    @model_validator(mode="after")
    def _exclusive(self) -> LoadBalancerSpec:
        at_most_one(self, "simple", "consistent_hash")
        at_most_one(self, "locality_lb_setting", "zone_aware_lb_setting")
        return self


def load_balancer_findings(spec: LoadBalancerSpec, outlier: bool, path: Path) -> Iterator[Finding]:
    """What Istio warns of; `outlier`: outlier detection stands beside it."""
    if spec.consistent_hash and spec.consistent_hash.minimum_ring_size:
        place: Path = (*path, "consistentHash", "minimumRingSize")
        yield warning(place, "minimumRingSize is deprecated", "Use ringHash.minimumRingSize.")
    if spec.simple is LbPolicy.PASSTHROUGH:
        message = "PASSTHROUGH means nothing in a mesh of `headrace up`: services' addresses lead nowhere by themselves"
        remedy = "An endpoint is chosen as by default; name a policy to choose by another one."
        yield Finding((*path, "simple"), message, remedy, NO_EFFECT, Severity.WARNING)
    yield from _idle_findings(spec, path)
    for name, setting in (
        ("localityLbSetting", spec.locality_lb_setting),
        ("zoneAwareLbSetting", spec.zone_aware_lb_setting),
    ):
        if setting is not None and (setting.failover or setting.failover_priority) and not outlier:
            yield warning((*path, name), "failover needs outlier detection to know who failed", "Add outlierDetection.")


def _idle_findings(spec: LoadBalancerSpec, path: Path) -> Iterator[Finding]:
    """What can have no effect beside the rest (HR0002), or only some (HR0001)."""
    warming = (LbPolicy.UNSPECIFIED, LbPolicy.ROUND_ROBIN, LbPolicy.LEAST_REQUEST)
    for name in set_fields(spec, "warmup", "warmup_duration_secs"):
        if spec.consistent_hash is not None or (spec.simple or LbPolicy.UNSPECIFIED) not in warming:
            message = "endpoints warm up under ROUND_ROBIN and LEAST_REQUEST only"
            remedy = "Take it out, or choose one of them."
            yield Finding((*path, spelled(spec, name)), message, remedy, NO_EFFECT, Severity.WARNING)
    if len(set_fields(spec, "warmup", "warmup_duration_secs")) == 2:
        message = "warmup comes before warmupDurationSecs"
        yield Finding((*path, "warmupDurationSecs"), message, "Take it out.", NO_EFFECT, Severity.WARNING)
    yield from zone_findings(spec.zone_aware_lb_setting, path)


def zone_findings(spec: ZoneAwareLbSpec | None, path: Path) -> Iterator[Finding]:
    """HR0001 for the part of zone-aware balancing that is not there."""
    if spec is not None and spec.enabled is not False:
        message = "zones of the caller's region are not balanced by their sizes yet: all of the region is called alike"
        remedy = "Use localityLbSetting to prefer the caller's zone."
        yield Finding((*path, "zoneAwareLbSetting"), message, remedy, NOT_SUPPORTED, Severity.WARNING)


def lower_load_balancer(spec: LoadBalancerSpec) -> LoadBalancer:
    """The policy."""
    return LoadBalancer(
        simple=spec.simple if spec.simple is not None else LbPolicy.UNSPECIFIED,
        consistent_hash=_hash(spec.consistent_hash) if spec.consistent_hash else None,
        locality=lower_localities(spec.locality_lb_setting, spec.zone_aware_lb_setting),
        warmup=_warmup(spec),
    )


def lower_localities(locality: LocalityLbSpec | None, zones: ZoneAwareLbSpec | None) -> LocalityLb | None:
    """What is said of localities (None: nothing is); zone-aware settings come first (Istio's rule)."""
    if zones is not None:
        return LocalityLb(
            enabled=zones.enabled is not False,
            failover=tuple((rule.from_, rule.to) for rule in zones.failover),
            failover_priority=tuple(zones.failover_priority),
            zone_aware=True,
            min_cluster_size=zones.min_cluster_size,
        )
    if locality is None:
        return None
    return LocalityLb(
        enabled=locality.enabled is not False,
        distribute=tuple(
            (rule.from_, tuple((name, rule.to[name]) for name in _narrowest_first(rule.to)))
            for rule in locality.distribute
        ),
        failover=tuple((rule.from_, rule.to) for rule in locality.failover),
        failover_priority=tuple(locality.failover_priority),
    )


def _warmup(spec: LoadBalancerSpec) -> Warmup | None:
    """Warm-up in either form."""
    if spec.warmup is None:
        return Warmup(spec.warmup_duration_secs) if spec.warmup_duration_secs is not None else None
    written = {"minimum_percent": spec.warmup.minimum_percent, "aggression": spec.warmup.aggression}
    return Warmup(spec.warmup.duration, **{name: value for name, value in written.items() if value is not None})


def _hash(spec: ConsistentHashSpec) -> ConsistentHash | None:
    """The hash; None where no key is named (then requests are spread as without one)."""
    if not set_fields(spec, "http_header_name", "http_cookie", "http_query_parameter_name") and not spec.use_source_ip:
        return None
    cookie = spec.http_cookie
    ring = spec.ring_hash.minimum_ring_size if spec.ring_hash else spec.minimum_ring_size
    return ConsistentHash(
        header=spec.http_header_name or "",
        cookie_name=cookie.name if cookie else "",
        cookie_path=cookie.path if cookie else "",
        cookie_ttl=max(cookie.ttl, 0.0) if cookie and cookie.ttl is not None else None,
        cookie_attributes=tuple((found.name, found.value) for found in cookie.attributes) if cookie else (),
        use_source_ip=bool(spec.use_source_ip),
        query_parameter=spec.http_query_parameter_name or "",
        minimum_ring_size=ring or None,
        maglev=spec.maglev is not None,
        maglev_table_size=spec.maglev.table_size if spec.maglev else None,
    )
