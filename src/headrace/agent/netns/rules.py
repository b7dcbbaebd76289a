"""The redirection rules of one replica's namespace, as nft reads them. Pure.

Called by `capture`. The rules are Istio's for a sidecar, with two more promises: what is neither TCP nor a question for
a name does not leave the namespace, and nothing comes in but what the proxy takes (or an annotation excludes).
"""

from __future__ import annotations

from collections.abc import Iterable

from headrace.agent.netns.plan import DNS_PORT, Place
from headrace.model.exclusions import Exclusions

OUTBOUND = 15001
INBOUND = 15006
DNS = 15053
PROXY_PORTS = (OUTBOUND, INBOUND, DNS)
"""What a proxy listens on in its replica's namespace: no process can have those."""
TABLE = "headrace"
LOCAL_SOURCE6 = "::6"


def ruleset(place: Place, exclusions: Exclusions) -> str:
    """The whole table of a namespace; loading it replaces an earlier one at once."""
    chains = [
        _prerouting(exclusions),
        _output(place, exclusions),
        _leaving(place, exclusions),
        _arriving(exclusions),
    ]
    body = "\n".join(chains)
    return f"table inet {TABLE} {{}}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n{body}\n}}\n"


def _prerouting(exclusions: Exclusions) -> str:
    rules = ['iifname "lo" return']
    if exclusions.exclude_inbound:
        rules.append(f"tcp dport {_set(exclusions.exclude_inbound)} return")
    if exclusions.include_inbound is None:
        rules.append(f"meta l4proto tcp redirect to :{INBOUND}")
    elif exclusions.include_inbound:
        rules.append(f"tcp dport {_set(exclusions.include_inbound)} redirect to :{INBOUND}")
    return _chain("prerouting", "type nat hook prerouting priority dstnat", rules)


def _output(place: Place, exclusions: Exclusions) -> str:
    proxy, gateway = place.proxy_user, place.net.gateway
    rules = [
        # Who calls the replica's own address comes in through the proxy like everybody else (Istio's rule).
        f'meta skuid {proxy} oifname "lo" ip daddr != 127.0.0.0/8 ip saddr != 127.0.0.6 '
        f"meta l4proto tcp redirect to :{INBOUND}",
        f'meta skuid {proxy} oifname "lo" ip6 daddr != ::1 ip6 saddr != {LOCAL_SOURCE6} '
        f"meta l4proto tcp redirect to :{INBOUND}",
        f"meta skuid {proxy} ip daddr {gateway} udp dport 53 dnat ip to {gateway}:{DNS_PORT}",
        f"meta skuid {proxy} return",
        f"udp dport 53 redirect to :{DNS}",
        "ip daddr 127.0.0.0/8 return",
        "ip6 daddr ::1 return",
        'oifname "lo" return',
    ]
    if exclusions.exclude_outbound:
        rules.append(f"tcp dport {_set(exclusions.exclude_outbound)} return")
    rules += [f"{_to(block)} return" for block in exclusions.exclude_ranges]
    if exclusions.include_ranges is None:
        rules.append(f"meta l4proto tcp redirect to :{OUTBOUND}")
    else:
        if exclusions.include_outbound:
            rules.append(f"tcp dport {_set(exclusions.include_outbound)} redirect to :{OUTBOUND}")
        rules += [f"{_to(block)} meta l4proto tcp redirect to :{OUTBOUND}" for block in exclusions.include_ranges]
    return _chain("output", "type nat hook output priority -100", rules)


def _leaving(place: Place, exclusions: Exclusions) -> str:
    """Packets without a socket (the kernel's own) carry no user, so that the last rule never meets them."""
    rules = [
        # Virtual addresses (`registry.addresses`) lead nowhere: a port that the service has not goes no further.
        "ip daddr 240.0.0.0/4 ip daddr != 255.255.255.255 reject with icmpx admin-prohibited",
        "ip6 daddr 2001:2::/48 reject with icmpx admin-prohibited",
        f"meta skuid {place.proxy_user} accept",
        "ip daddr 127.0.0.0/8 accept",
        "ip6 daddr ::1 accept",
        'oifname "lo" accept',
    ]
    # Answers too leave by the proxy alone: an application that took its proxy's port could speak past it otherwise.
    if exclusions.exclude_inbound:
        rules.append(f"meta l4proto {{ tcp, udp }} th sport {_set(exclusions.exclude_inbound)} accept")
    if exclusions.include_inbound is not None:
        captured = (*exclusions.include_inbound, INBOUND)
        rules.append(f"tcp sport != {_set(captured)} ct state established accept")
    if exclusions.exclude_outbound:
        rules.append(f"meta l4proto {{ tcp, udp }} th dport {_set(exclusions.exclude_outbound)} accept")
    rules += [f"{_to(block)} accept" for block in exclusions.exclude_ranges]
    if exclusions.include_ranges is not None:
        rules.append("meta l4proto tcp accept")
    rules.append("meta skuid 0-4294967295 counter reject with icmpx admin-prohibited")
    return _chain("leaving", "type filter hook output priority filter", rules)


def _arriving(exclusions: Exclusions) -> str:
    rules = [
        'iifname "lo" accept',
        "ct state established,related accept",
        "ct status dnat accept",
        "meta l4proto { icmp, icmpv6 } accept",
    ]
    if exclusions.exclude_inbound:
        rules.append(f"meta l4proto {{ tcp, udp }} th dport {_set(exclusions.exclude_inbound)} accept")
    if exclusions.include_inbound is not None:
        rules.append("meta l4proto tcp accept")
    rules.append("counter drop")
    return _chain("arriving", "type filter hook input priority filter", rules)


def _chain(name: str, hook: str, rules: Iterable[str]) -> str:
    lines = "\n".join(f"    {rule}" for rule in rules)
    return f"  chain {name} {{\n    {hook}; policy accept;\n{lines}\n  }}"


def _set(ports: Iterable[int]) -> str:
    return "{ " + ", ".join(str(port) for port in sorted(set(ports))) + " }"


def _to(block: str) -> str:
    return f"{'ip6' if ':' in block else 'ip'} daddr {block}"
