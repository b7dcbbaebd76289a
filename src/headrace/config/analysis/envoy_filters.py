"""EnvoyFilters: patches whose operation does nothing there, or that depend on what other patches leave behind.

IST0133 and IST0151 to IST0155. Called by `analyse`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index
from headrace.config.analysis.written import Written, items, mapping, text, within
from headrace.config.documents import Path
from headrace.model.problem import Problem

_ROUTES = ("ROUTE_CONFIGURATION", "HTTP_ROUTE")
_REPLACEABLE = ("NETWORK_FILTER", "HTTP_FILTER", "VIRTUAL_HOST")
_RELATIVE = ("INSERT_BEFORE", "INSERT_AFTER", "REMOVE", "REPLACE")


def judge_envoy_filters(index: Index) -> Iterator[Problem]:
    """Every judgement of every patch; a name that an earlier patch gave to one version of proxies only makes a later
    relative patch depend on the version."""
    versioned: set[str] = set()
    for written in index.written.kind("networking.istio.io", "EnvoyFilter"):
        yield written.problem(
            Code.SCHEMA_WARNING,
            ("spec",),
            "What an EnvoyFilter patches is generated, and may change with any version.",
            "Use another kind where one does it; look at the result after every upgrade.",
        )
        for at, patch in enumerate(items(written.spec, "configPatches")):
            if within(patch, "patch") is None:
                break
            name = _patched_name(patch)
            yield from _judge_patch(written, at, patch, name in versioned)
            if text(patch, "match", "proxy", "proxyVersion"):
                versioned.add(name)


def _patched_name(patch: Any) -> str:
    """What the patch's value, or its match, calls the thing that is patched."""
    value = mapping(patch, "patch", "value")
    if not value:
        return ""
    return text(value, "name") or text(patch, "match", "listener", "filterChain", "filter", "name")


def _judge_patch(written: Written, at: int, patch: Any, versioned: bool) -> Iterator[Problem]:
    operation, applies = text(patch, "patch", "operation"), text(patch, "applyTo")
    place: Path = ("spec", "configPatches", at, "patch", "operation")
    routes = applies in _ROUTES
    if operation == "ADD" and routes:
        message = f"ADD does nothing for {applies}."
        yield written.problem(Code.FILTER_ADDS, place, message, "Use MERGE, or apply it to VIRTUAL_HOST.")
    elif operation == "REMOVE" and routes:
        message = f"REMOVE does nothing for {applies}."
        yield written.problem(Code.FILTER_REMOVES, place, message, "Use MERGE, or apply it to VIRTUAL_HOST.")
    elif operation == "REPLACE" and applies not in _REPLACEABLE:
        message = f"REPLACE is only for {', '.join(_REPLACEABLE)}, not for {applies}."
        yield written.problem(Code.FILTER_REPLACES, place, message, "Use MERGE, or REMOVE and ADD.")
    elif operation in _RELATIVE and not within(written.spec, "priority"):
        yield written.problem(
            Code.FILTER_RELATIVE_VERSION if versioned else Code.FILTER_RELATIVE,
            place,
            f"{operation} depends on the order of EnvoyFilters"
            + (", and what it refers to is there for one version of proxies only." if versioned else "."),
            "Set priority, or use an operation that does not depend on others (INSERT_FIRST, ADD, MERGE).",
        )
