"""Which requests a route takes: HTTPMatchRequest as an Envoy RouteMatch.

Called by `routes`. What is known when translating (port, gateways, source labels, source namespace) is decided in
`routes`; here is what only the request tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from envoy.config.route.v3 import route_components_pb2 as route_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2

from headrace.envoy.translate.jwt_claims import claim_matcher
from headrace.envoy.translate.messages import boolean
from headrace.model.claims import routing_claim
from headrace.model.traffic import HttpMatch, MatchKind, StringMatch


def route_match(match: HttpMatch | None) -> Any:
    """The RouteMatch; None matches everything."""
    found = route_pb2.RouteMatch(prefix="/")
    if match is None:
        return found
    headers = [(name, _header(name, text)) for name, text in match.headers if not routing_claim(name)]
    headers += [(name, _without(name, text)) for name, text in match.without_headers if not routing_claim(name)]
    found.dynamic_metadata.extend(_claims(match.headers))
    for claim in _claims(match.without_headers):
        claim.invert = True
        found.dynamic_metadata.append(claim)
    found.headers.extend(header for _, header in sorted(headers, key=lambda item: item[0]))
    if match.uri is not None:
        _set_path(found, match.uri)
    found.case_sensitive.CopyFrom(boolean(not match.ignore_uri_case))
    for name, text in ((":method", match.method), (":authority", match.authority), (":scheme", match.scheme)):
        if text is not None:
            found.headers.append(_header(name, text))
    for name, text in sorted(match.query_params, key=lambda item: item[0]):
        found.query_parameters.append(_query_parameter(name, text))
    return found


def _claims(conditions: Sequence[tuple[str, StringMatch]]) -> Iterator[Any]:
    """The conditions that are about claims of a verified token, sorted by name."""
    for name, text in sorted(conditions, key=lambda item: item[0]):
        path = routing_claim(name)
        if path:
            anything = StringMatch(MatchKind.REGEX, ".*")
            yield claim_matcher(path, [string_matcher(anything if _is_presence(text) else text)])


def takes_everything(match: Any) -> bool:
    """Whether no request passes the RouteMatch by, so that routes after it are never reached."""
    every_path = match.prefix == "/" or match.safe_regex.regex == ".*"
    return every_path and not match.headers and not match.query_parameters and not match.dynamic_metadata


def string_matcher(text: StringMatch) -> Any:
    """The StringMatcher of an exact, prefix or RE2 (whole text) comparison."""
    if text.kind is MatchKind.EXACT:
        return string_pb2.StringMatcher(exact=text.value)
    if text.kind is MatchKind.PREFIX:
        return string_pb2.StringMatcher(prefix=text.value)
    return string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=text.value))


def _set_path(found: Any, uri: StringMatch) -> None:
    if uri.kind is MatchKind.EXACT:
        found.path = uri.value
    elif uri.kind is MatchKind.PREFIX:
        found.prefix = uri.value
    elif uri.kind is MatchKind.SEGMENTS and uri.value != "/":
        found.path_separated_prefix = uri.value
    elif uri.kind is MatchKind.REGEX:
        found.safe_regex.regex = uri.value


def _header(name: str, text: StringMatch) -> Any:
    if _is_presence(text):
        return route_pb2.HeaderMatcher(name=name, present_match=True)
    return route_pb2.HeaderMatcher(name=name, string_match=string_matcher(text))


def _without(name: str, text: StringMatch) -> Any:
    """Inverted; a header that is missing counts as empty, so that its absence satisfies the condition."""
    header = _header(name, text)
    header.invert_match = True
    header.treat_missing_header_as_empty = not _is_presence(text)
    return header


def _query_parameter(name: str, text: StringMatch) -> Any:
    if _is_presence(text):
        return route_pb2.QueryParameterMatcher(name=name, present_match=True)
    return route_pb2.QueryParameterMatcher(name=name, string_match=string_matcher(text))


def _is_presence(text: StringMatch) -> bool:
    """`{}` and the regex `*`, which is no RE2 pattern, ask whether there is such a header (Istio's rule)."""
    return text.kind is MatchKind.PRESENT or (text.kind is MatchKind.REGEX and text.value == "*")
