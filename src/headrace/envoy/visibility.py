"""Who sees what: exportTo, and which DestinationRule speaks for a service.

One `MeshIndex` a snapshot, shared by all scopes; called by `envoy.scopes`. Rules (Istio): default exportTo comes from
MeshConfig; what is private to the client's namespace or exported to it by name comes before what is public; a
DestinationRule is looked up in the client's namespace, then the service's, then the root's, the most specific host
first, and the first namespace with a match wins whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from headrace.model.destination import DestinationRule, Subset, failover_labels
from headrace.model.inference import ENTRY_KIND, InferencePolicy
from headrace.model.locality import NODE
from headrace.model.resource import Labels, selects
from headrace.model.service import Service
from headrace.model.traffic import VirtualService
from headrace.registry.snapshot import MeshSnapshot

PRIVATE = "."
NOBODY = "~"
EVERYBODY = "*"


def exported_to(export_to: Sequence[str], default: Sequence[str], owner: str, namespace: str) -> bool:
    """Whether a document of namespace `owner` with this `exportTo` is visible in `namespace`."""
    for word in export_to or default:
        if word in (EVERYBODY, namespace) or (word == PRIVATE and owner == namespace):
            return True
    return False


def wildcard_covers(pattern: str, host: str) -> bool:
    """Whether a host of a document (`*`, `*.example.com` or a full name) covers `host` (itself maybe a wildcard)."""
    if pattern == host or pattern == "*":
        return True
    return pattern.startswith("*") and host.removeprefix("*").endswith(pattern[1:])


def host_specificity(host: str) -> tuple[bool, int, str]:
    """Sort key, most specific first: full names, then the longest wildcard (Istio's `MostSpecificHostMatch`)."""
    return (host.startswith("*"), -len(host), host)


def merge_rules(rules: Sequence[DestinationRule]) -> DestinationRule:
    """One rule of several for the same host, oldest first: subsets add (first of a name wins), the first top-level
    policy wins (Istio's merge of DestinationRules); what BackendTLSPolicies say comes beneath it."""
    if len(rules) == 1:
        return rules[0]
    subsets: dict[str, Subset] = {}
    for rule in rules:
        for subset in rule.subsets:
            subsets.setdefault(subset.name, subset)
    policy = next((rule.policy for rule in rules if rule.policy is not None and not rule.made), None)
    for beneath in (rule.policy for rule in rules if rule.made):
        policy = policy.with_tls(beneath) if policy is not None and beneath is not None else policy or beneath
    first = rules[0]
    return DestinationRule(first.meta, first.host, policy, tuple(subsets.values()), first.export_to)


def speaking_rules(rules: Sequence[DestinationRule], namespace: str, labels: Labels) -> list[DestinationRule]:
    """Which rules of one namespace for one host speak for a caller of `namespace` with these labels, oldest first.

    Rules merge that are for the same workloads and exported alike, or wider than those that they join; one for all
    workloads joins those for some as well (Istio). A rule that selects the caller (of its own namespace only) comes
    before all without a selector, of which the last counts.
    """
    groups: list[list[DestinationRule]] = []
    for rule in sorted(rules, key=lambda item: item.workload_selector is None):
        exports = _exports(rule)
        standalone = True
        for group in groups:
            theirs = _exports(group[0])
            same = rule.workload_selector == group[0].workload_selector
            if (same or rule.workload_selector is None) and (exports == theirs or (theirs and exports > theirs)):
                group.append(rule)
                standalone = standalone and not same
        if standalone:
            groups.append([rule])
    found: list[DestinationRule] = []
    for group in groups:
        selector = group[0].workload_selector
        if selector is None:
            found = group
        elif group[0].meta.namespace == namespace and selects(selector, labels):
            return group
    return found


def _exports(rule: DestinationRule) -> frozenset[str]:
    """What `exportTo` says; a rule for some workloads stays in its namespace."""
    return frozenset(rule.export_to if rule.workload_selector is None else (PRIVATE,))


class RuleTable:
    """The DestinationRules that one namespace offers, by host; full names by look-up, wildcards by walk."""

    def __init__(self) -> None:
        self._exact: dict[str, list[DestinationRule]] = {}
        self._wild: dict[str, list[DestinationRule]] = {}

    def add(self, rule: DestinationRule) -> None:
        table = self._wild if rule.host.startswith("*") else self._exact
        table.setdefault(rule.host, []).append(rule)

    def seal(self) -> None:
        """Order the wildcards by specificity; called once after the last `add`."""
        self._wild = {host: self._wild[host] for host in sorted(self._wild, key=host_specificity)}

    def find(self, host: str) -> list[DestinationRule]:
        """Rules of the most specific host that covers `host`, oldest first (empty: none does)."""
        exact = self._exact.get(host)
        if exact is not None:
            return exact
        for pattern, rules in self._wild.items():
            if wildcard_covers(pattern, host):
                return rules
        return []


class RuleMerger:
    """Merged rules, kept from snapshot to snapshot: the same documents give the same object."""

    def __init__(self) -> None:
        self._merged: dict[tuple[DestinationRule, ...], DestinationRule] = {}
        self._used: dict[tuple[DestinationRule, ...], DestinationRule] = {}

    def merge(self, rules: Sequence[DestinationRule]) -> DestinationRule | None:
        """The one rule that these make (None for none)."""
        if len(rules) < 2:
            return rules[0] if rules else None
        key = tuple(rules)
        merged = self._used.get(key)
        if merged is None:
            merged = self._used[key] = self._merged.get(key) or merge_rules(rules)
        return merged

    def turn(self) -> None:
        """Forget what was not used since the last turn."""
        self._merged, self._used = self._used, {}


class MeshIndex:
    """Look-ups over one snapshot."""

    def __init__(self, snapshot: MeshSnapshot, merger: RuleMerger) -> None:
        self._snapshot = snapshot
        self._mesh = snapshot.mesh
        self._merger = merger
        self._hosts: dict[str, list[str]] | None = None
        self._local: dict[str, RuleTable] = {}
        self._exported: dict[str, RuleTable] = {}
        self._selector_names: dict[str, frozenset[str]] = {}
        for rule in snapshot.destination_rules:
            self._place(rule)
        for table in (*self._local.values(), *self._exported.values()):
            table.seal()
        self._inference: dict[tuple[str, str], InferencePolicy] = {}
        self._entries: dict[tuple[str, str], InferencePolicy] = {}
        for policy in snapshot.inference_policies:
            for target in policy.targets:
                self._inference.setdefault((policy.meta.namespace, target.host(policy.meta.namespace)), policy)
            for entry in policy.entries:
                self._entries.setdefault((policy.meta.namespace, entry), policy)
        self.caller_label_names = _caller_label_names(snapshot)
        self.gateway_label_names = frozenset(name for gateway in snapshot.gateways for name, _ in gateway.selector)

    def visible_services(self, namespace: str) -> list[Service]:
        """One service for every host that `namespace` sees, sorted by host: the first of its candidates."""
        return [candidates[0] for candidates in self.candidates(namespace)]

    def hosts_of(self, namespace: str) -> list[str]:
        """The hosts that services of a namespace have."""
        if self._hosts is None:
            self._hosts = {}
            for host, services in self._snapshot.services.items():
                for service in services:
                    self._hosts.setdefault(service.namespace, []).append(host)
        return self._hosts.get(namespace, [])

    def candidates(self, namespace: str, hosts: Sequence[str] | None = None) -> Iterator[list[Service]]:
        """For every host (or only for `hosts`, where given) the services that `namespace` sees, best first: its own,
        then a Kubernetes Service, so that nobody else takes its name, then what is exported to it by name, then the
        oldest."""
        default = self._mesh.default_service_export_to
        services = self._snapshot.services
        for host in sorted(services) if hosts is None else hosts:
            known = services.get(host, ())
            visible = [item for item in known if exported_to(item.export_to, default, item.namespace, namespace)]
            if visible:
                yield sorted(visible, key=lambda item: self._rank(item, namespace)) if len(visible) > 1 else visible

    def _rank(self, service: Service, namespace: str) -> tuple[bool, bool, bool]:
        public = EVERYBODY in (service.export_to or self._mesh.default_service_export_to)
        return (service.namespace != namespace, not service.kubernetes, public)

    def visible_virtual_services(self, namespace: str) -> list[VirtualService]:
        """The VirtualServices that `namespace` sees: its own, then those exported to it by name, then the public
        ones; each group oldest first."""
        default = self._mesh.default_virtual_service_export_to
        private: list[VirtualService] = []
        named: list[VirtualService] = []
        public: list[VirtualService] = []
        for item in self._snapshot.virtual_services:
            words = item.export_to or default
            if EVERYBODY in words:
                public.append(item)
            elif item.meta.namespace == namespace and (PRIVATE in words or namespace in words):
                private.append(item)
            elif namespace in words:
                named.append(item)
        return private + named + public

    def selector_names(self, namespace: str) -> frozenset[str]:
        """Names of the labels by which DestinationRules of `namespace` select its workloads."""
        return self._selector_names.get(namespace, frozenset())

    def rule_for(self, service: Service, namespace: str, labels: Labels) -> DestinationRule | None:
        """The DestinationRule under which a workload of `namespace` with these labels calls `service`. Of another
        namespace's rules the most specific host is taken first, and then only what is exported to `namespace`."""
        return self._merger.merge(self.rules_for(service, namespace, labels))

    def rules_for(self, service: Service, namespace: str, labels: Labels) -> list[DestinationRule]:
        """The documents that `rule_for` merges, oldest first."""
        own = self._local.get(namespace)
        found = own.find(service.host) if own is not None else []
        for owner in (service.namespace, self._mesh.root_namespace):
            if found:
                break
            table = self._exported.get(owner)
            rules = table.find(service.host) if table is not None else []
            default = self._mesh.default_destination_rule_export_to
            found = [rule for rule in rules if exported_to(rule.export_to, default, owner, namespace)]
        return speaking_rules(found, namespace, labels) if found else found

    def _place(self, rule: DestinationRule) -> None:
        """Put a rule where it is looked for: in its own namespace, and in others unless it is private. Rules for the
        whole mesh live in the root namespace, so that there only private ones come before those of the service."""
        owner = rule.meta.namespace
        if NOBODY in rule.export_to:
            return
        if rule.workload_selector is not None:
            self._selector_names[owner] = self.selector_names(owner) | frozenset(rule.workload_selector)
        private = rule.workload_selector is not None or self._is_private(rule)
        own = private or not rule.export_to or {EVERYBODY, PRIVATE, owner} & set(rule.export_to)
        if private or (own and owner != self._mesh.root_namespace):
            self._local.setdefault(owner, RuleTable()).add(rule)
        if not private:
            self._exported.setdefault(owner, RuleTable()).add(rule)

    def _is_private(self, rule: DestinationRule) -> bool:
        if not rule.export_to:
            return PRIVATE in self._mesh.default_destination_rule_export_to
        return len(rule.export_to) == 1 and rule.export_to[0] in (PRIVATE, rule.meta.namespace)

    def inference_for(self, service: Service) -> InferencePolicy | None:
        """The InferencePolicy that is for a service: of several the oldest, as Gateway API policies conflict."""
        return self._inference.get((service.namespace, service.host))

    def credential_for(self, service: Service, namespace: str) -> InferencePolicy | None:
        """The policy whose credential a proxy of `namespace` puts into requests to a service. A Secret stays in its
        namespace: proxies of others than the policy's never get it, and send what their application sent."""
        if service.namespace != namespace:
            return None
        policy = self._inference.get((service.namespace, service.host))
        if service.meta.key.kind == ENTRY_KIND:
            policy = self._entries.get((service.namespace, service.meta.name))
        return policy if policy is not None and policy.credential is not None else None


def _caller_label_names(snapshot: MeshSnapshot) -> frozenset[str]:
    """Names of all labels that some document selects or ranks callers by: VirtualServices by sourceLabels,
    DestinationRules by workloadSelector and, as the mesh, by failoverPriority."""
    names = {name for item in snapshot.virtual_services for match in item.matches() for name, _ in match.source_labels}
    for rule in snapshot.destination_rules:
        names |= failover_labels(rule)
        names.update(rule.workload_selector or ())
    names |= {NODE} if any(item.distribution for found in snapshot.services.values() for item in found) else set()
    return frozenset(names) | failover_labels(None, snapshot.mesh.locality)
