"""Gateways of the same proxies that contend for a host of a port, or that show the same certificate.

IST0138 and IST0145; IST0101 for a Gateway without servers, whose selector no other one shares. Called by `analyse`;
which Gateways are compared, and that hosts compare as they are written, is Istio's rule.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index, shown
from headrace.config.analysis.written import Written, items, pairs, text, within
from headrace.model.problem import Problem
from headrace.model.resource import Labels, selects

_Door = tuple[str, str, str]
"""What only one Gateway can have: port, address, host."""
_MOST_NAMES = 10


def judge_gateway_conflicts(index: Index) -> Iterator[Problem]:
    """Every judgement of two Gateways."""
    doors, certificates = _Holders(), _Holders()
    serving: dict[str, Labels] = {}
    gateways = index.written.kind("networking.istio.io", "Gateway")
    for gateway in gateways:
        selector = pairs(gateway.spec, "selector")
        for server in items(gateway.spec, "servers"):
            serving[shown(selector)] = selector
            for door in _doors(server):
                doors.add(door, selector, gateway.full_name)
            if certificate := _certificate(server):
                certificates.add(certificate, selector, gateway.full_name)
    shared = _Proxies(index)
    for gateway in gateways:
        selector = pairs(gateway.spec, "selector")
        within_reach = partial(shared.between, selector)
        if selector and not items(gateway.spec, "servers") and not any(map(within_reach, serving.values())):
            yield gateway.problem(
                Code.NOT_FOUND,
                ("spec", "selector"),
                f'Referenced selector not found: "{shown(selector)}" (no Gateway with servers has it).',
                "Add servers.",
            )
        for number, server in enumerate(items(gateway.spec, "servers")):
            rivals = {name for door in _doors(server) for name in doors.some(door, within_reach)}
            if rivals - {gateway.full_name}:
                yield _contended(gateway, number, server, sorted(rivals - {gateway.full_name}))
            same = set(certificates.some(_certificate(server), partial(selects, selector)))
            if same - {gateway.full_name}:
                yield _same_certificate(gateway, number, sorted({gateway.full_name, *same}))


class _Holders:
    """Names of Gateways by what they have (a door, a certificate), and then by their selectors: of thousands with one
    selector, few are looked at."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, ...], dict[str, tuple[Labels, dict[str, None]]]] = defaultdict(dict)

    def add(self, held: tuple[str, ...], selector: Labels, name: str) -> None:
        self._found[held].setdefault(shown(selector), (selector, {}))[1][name] = None

    def some(self, held: tuple[str, ...], fits: Callable[[Labels], bool]) -> Iterator[str]:
        """Those with a selector that fits: all, or more of each selector than a message names."""
        for selector, names in self._found.get(held, {}).values():
            if fits(selector):
                yield from islice(names, _MOST_NAMES + 1)


class _Proxies:
    """Which two selectors have proxies in common."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._known: dict[tuple[str, str], bool] = {}

    def between(self, one: Labels, other: Labels) -> bool:
        """Equal selectors; or one is written within the other, and a workload has the labels of both."""
        first, second = shown(one), shown(other)
        if first == second:
            return True
        if first not in second and second not in first:
            return False
        if (first, second) not in self._known:
            self._known[first, second] = any(
                selects(one, running.labels) and selects(other, running.labels) for running in self._index.running
            )
        return self._known[first, second]


def _doors(server: Any) -> list[_Door]:
    port, bind = str(within(server, "port", "number")), text(server, "bind")
    return [(port, bind, host) for host in items(server, "hosts") if isinstance(host, str)]


def _certificate(server: Any) -> tuple[str, ...]:
    """What names the server's certificate; empty where nothing does."""
    name = text(server, "tls", "credentialName")
    if name:
        return (name,)
    files = (text(server, "tls", "serverCertificate"), text(server, "tls", "privateKey"))
    return files if all(files) else ()


def _contended(gateway: Written, number: int, server: Any, rivals: list[str]) -> Problem:
    hosts = ",".join(host for _, _, host in _doors(server))
    port = within(server, "port", "number")
    return gateway.problem(
        Code.CONFLICTING_GATEWAYS,
        ("spec", "servers", number),
        f"Conflict with gateways {', '.join(rivals[:_MOST_NAMES])} (workload selector "
        f"{shown(pairs(gateway.spec, 'selector'))}, port {port}, hosts {hosts}).",
        "Give each host of a port to one Gateway only.",
    )


def _same_certificate(gateway: Written, number: int, names: list[str]) -> Problem:
    return gateway.problem(
        Code.DUPLICATE_CERTIFICATE,
        ("spec", "servers", number, "tls"),
        f"Duplicate certificate in multiple gateways {', '.join(names[:_MOST_NAMES])} may cause 404s if clients re-use "
        "HTTP2 connections.",
        "Put the hosts of one certificate into one Gateway.",
    )
