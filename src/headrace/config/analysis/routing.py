"""Whether routes can ever be taken: rules behind a rule that takes everything, and matches that an earlier one covers.

IST0130 and IST0131. Called by `analyse`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index
from headrace.model.problem import Problem
from headrace.model.traffic import HttpMatch, HttpRoute, MatchKind, StringMatch, VirtualService

_MOST_COMPARED = 400


def judge_routes(index: Index) -> Iterator[Problem]:
    """IST0130 and IST0131 for every VirtualService."""
    for rule in index.virtual_services:
        yield from _judge_duplicates(index, rule)
        yield from _judge_prefixes(index, rule)


def _route_name(route: HttpRoute) -> str:
    return f'"{route.name}"' if route.name else f"#{route.position}"


def _match_name(match: HttpMatch, number: int) -> str:
    return f'"{match.name}"' if match.name else f"#{number}"


def _unreachable(index: Index, rule: VirtualService, route: HttpRoute, reason: str, remedy: str) -> Problem:
    message = f"VirtualService rule {_route_name(route)} not used ({reason})."
    return index.problem(rule.meta, Code.UNREACHABLE_RULE, f"spec.http[{route.position}]", message, remedy)


def _judge_duplicates(index: Index, rule: VirtualService) -> Iterator[Problem]:
    seen: dict[HttpMatch, HttpRoute] = {}
    catch_all = False
    last_remedy = "Move the rule without matches to the end, or give it a match."
    for route in rule.http:
        if not route.matches:
            if catch_all:
                yield _unreachable(index, rule, route, "only the last rule can have no matches", last_remedy)
            catch_all = True
            continue
        if catch_all:
            yield _unreachable(index, rule, route, "route without matches defined before", last_remedy)
            continue
        duplicates = 0
        for number, match in enumerate(route.matches):
            key = replace(match, name="")
            first = seen.get(key)
            if first is None:
                seen[key] = route
                continue
            duplicates += 1
            yield _ineffective(index, rule, route, (number, _match_name(match, number)), _route_name(first))
        if duplicates == len(route.matches):
            remedy = "Take the rule out, or change its matches: an earlier rule takes all of their requests."
            yield _unreachable(index, rule, route, "all matches used by prior rules", remedy)


def _ineffective(index: Index, rule: VirtualService, route: HttpRoute, match: tuple[int, str], earlier: str) -> Problem:
    number, name = match
    return index.problem(
        rule.meta,
        Code.INEFFECTIVE_MATCH,
        f"spec.http[{route.position}].match[{number}]",
        f"VirtualService rule {_route_name(route)} match {name} is not used "
        f"(duplicate/overlapping match in rule {earlier}).",
        "Put the more specific match first, or take this one out.",
    )


def _implies(narrow: StringMatch | None, wide: StringMatch | None) -> bool:
    """Whether every text that fits `narrow` (None: all texts, also a missing one) certainly fits `wide`."""
    if wide is None or narrow == wide:
        return True
    if narrow is None:
        return False
    if wide.kind is MatchKind.PRESENT:
        return True
    if wide.kind is MatchKind.PREFIX and narrow.kind in (MatchKind.EXACT, MatchKind.PREFIX):
        return narrow.value.startswith(wide.value)
    return False


def _maps_imply(narrow: HttpMatch, wide: HttpMatch) -> bool:
    """`_implies` for headers, query parameters and absent headers: what `wide` demands, `narrow` demands too."""
    for theirs, mine in ((narrow.headers, wide.headers), (narrow.query_params, wide.query_params)):
        known = dict(theirs)
        if not all(name in known and _implies(known[name], value) for name, value in mine):
            return False
    return set(wide.without_headers) <= set(narrow.without_headers)


def _covered(wide: HttpMatch, narrow: HttpMatch) -> bool:
    """Whether every request that fits `narrow` certainly fits `wide`."""
    uri = narrow.uri
    if narrow.ignore_uri_case != wide.ignore_uri_case:
        return False
    if narrow.ignore_uri_case and uri is not None and wide.uri is not None:
        uri = StringMatch(uri.kind, uri.value.lower())
        wide = replace(wide, uri=StringMatch(wide.uri.kind, wide.uri.value.lower()))
    return (
        _implies(uri, wide.uri)
        and _implies(narrow.method, wide.method)
        and _implies(narrow.authority, wide.authority)
        and _implies(narrow.scheme, wide.scheme)
        and wide.port in (0, narrow.port)
        and wide.source_namespace in ("", narrow.source_namespace)
        and set(wide.source_labels) <= set(narrow.source_labels)
        and (not wide.gateways or bool(narrow.gateways and set(narrow.gateways) <= set(wide.gateways)))
        and _maps_imply(narrow, wide)
    )


def _judge_prefixes(index: Index, rule: VirtualService) -> Iterator[Problem]:
    """Matches by URI behind a prefix that covers them; documents with more matches than the limit are judged up to it,
    as the comparison is quadratic."""
    found = [
        (route, number, match, match.uri.value)
        for route in rule.http
        for number, match in enumerate(route.matches)
        if match.uri is not None and match.uri.kind in (MatchKind.PREFIX, MatchKind.EXACT)
    ][:_MOST_COMPARED]
    for position, (wide_route, wide_number, wide, wide_prefix) in enumerate(found):
        if wide.uri is None or wide.uri.kind is not MatchKind.PREFIX:
            continue
        for route, number, match, prefix in found[position + 1 :]:
            if prefix == wide_prefix or not _covered(wide, match):
                continue
            kind = match.uri.kind.value if match.uri else ""
            name = f"{_match_name(match, number)} of {kind} {prefix}"
            earlier = f"{_match_name(wide, wide_number)} of prefix {wide_prefix} on {_route_name(wide_route)}"
            yield _ineffective(index, rule, route, (number, name), earlier)
