"""Which virtual host and route take a request, and what becomes of it.

Called by `proxy`. Rules: Envoy's order of domains (exact, longest suffix, longest prefix, any) and the first route
that matches (envoy.config.route.v3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import re2

from headrace.envoy.trace.matchers import full_match, header_matches, metadata_matches, percent_of, query_matches
from headrace.envoy.trace.rbac import metadata
from headrace.envoy.trace.request import Data, Request, Share

_GRPC = "application/grpc"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A route before the one that was taken, and why it was not."""

    name: str
    document: str
    why: str


def virtual_host(config: Data, host: str) -> tuple[Data | None, str]:
    """The virtual host of an authority, and the domain by which it was found ('' : none)."""
    name = host.lower()
    if config.get("ignore_port_in_host_matching"):
        name = without_port(name)
    best: tuple[int, int, Data | None, str] = (9, 0, None, "")
    for item in config.get("virtual_hosts", []):
        for domain in item.get("domains", []):
            rank = _rank(domain.lower(), name)
            if rank is not None and (rank, -len(domain)) < best[:2]:
                best = (rank, -len(domain), item, domain)
    return best[2], best[3]


def without_port(host: str) -> str:
    """An authority without its port."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and (not name.count(":") or name.endswith("]")) else host


def _rank(domain: str, name: str) -> int | None:
    if domain == name:
        return 0
    if domain == "*":
        return 3
    if domain.startswith("*") and len(name) >= len(domain) and name.endswith(domain[1:]):
        return 1
    if domain.endswith("*") and len(name) >= len(domain) and name.startswith(domain[:-1]):
        return 2
    return None


def route_in(host: Data, request: Request) -> tuple[Data | None, tuple[Skipped, ...], str]:
    """The route that takes the request, those before it that did not, and a word on chance where it plays a part."""
    skipped: list[Skipped] = []
    for route in host.get("routes", []):
        match = route.get("match", {})
        why = next(_unmet(match, request), "")
        if not why:
            fraction = match.get("runtime_fraction", {}).get("default_value")
            return route, tuple(skipped), f"{percent_of(fraction):g}% of such requests" if fraction else ""
        skipped.append(Skipped(route.get("name", ""), document(route), why))
    return None, tuple(skipped), ""


def document(message: Data) -> str:
    """The document that a route or cluster says it comes from."""
    return str(message.get("metadata", {}).get("filter_metadata", {}).get("istio", {}).get("config", ""))


def _unmet(match: Data, request: Request) -> Iterator[str]:
    """Why the request does not match; nothing where it does."""
    path = request.path.partition("?")[0]
    if not _path_fits(match, path):
        yield f"path {path} is not {_path_words(match)}"
    for item in match.get("headers", []):
        if not header_matches(item, request):
            yield f"header {item['name']} is {_shown(request.header(item['name']))}"
    for item in match.get("query_parameters", []):
        if not query_matches(item, request):
            yield f"query parameter {item['name']} does not match"
    for item in match.get("dynamic_metadata", []):
        if not metadata_matches(item, metadata(request)):
            path_of = ".".join(part["key"] for part in item.get("path", []))
            yield f"the token's {path_of.removeprefix('payload.') or 'claims'} do not match"
    if "grpc" in match and not (request.header("content-type") or "").startswith(_GRPC):
        yield "it is no gRPC request"


def _shown(value: str | None) -> str:
    return "missing" if value is None else repr(value)


def _path_fits(match: Data, path: str) -> bool:
    exact_case = match.get("case_sensitive", True)
    given = path if exact_case else path.lower()

    def said(name: str) -> str:
        return str(match[name]) if exact_case else str(match[name]).lower()

    if "path" in match:
        return given == said("path")
    if "path_separated_prefix" in match:
        prefix = said("path_separated_prefix")
        return given == prefix or given.startswith(prefix + "/")
    if "safe_regex" in match:
        return full_match(match["safe_regex"].get("regex", ""), path)
    if "prefix" in match:
        return given.startswith(said("prefix"))
    return "connect_matcher" not in match and "path_match_policy" not in match


def _path_words(match: Data) -> str:
    for name, word in (("path", "exactly"), ("prefix", "below"), ("path_separated_prefix", "below")):
        if name in match:
            return f"{word} {match[name]}"
    return f"of the form {match['safe_regex'].get('regex', '')}" if "safe_regex" in match else "of a CONNECT request"


def shares(route: Data, request: Request) -> tuple[Share, ...]:
    """The clusters of a forwarding route with their shares, and the request as it leaves."""
    action = route["route"]
    changed = _headed([route], _rewritten(action, route.get("match", {}), request))
    if "weighted_clusters" in action:
        parts: Sequence[Data] = [item for item in action["weighted_clusters"]["clusters"] if item.get("weight")]
        total = sum(item["weight"] for item in parts) or 1
        return tuple(Share(item["name"], 100 * item["weight"] / total, _headed([item], changed)) for item in parts)
    if "cluster_header" in action:
        return (Share(request.header(action["cluster_header"]) or "", 100.0, changed),)
    return (Share(action.get("cluster", ""), 100.0, changed),)


def _rewritten(action: Data, match: Data, request: Request) -> Request:
    path, query_mark, query = request.path.partition("?")
    if "prefix_rewrite" in action:
        old = match.get("path", match.get("prefix", match.get("path_separated_prefix", "")))
        path = action["prefix_rewrite"] + path[len(old) :]
    elif "regex_rewrite" in action:
        path = _substituted(action["regex_rewrite"], path)
    elif "path_rewrite" in action:
        path = action["path_rewrite"]
    host = action.get("host_rewrite_literal", request.host)
    return replace(request, path=path + query_mark + query, host=host)


def _substituted(rewrite: Data, path: str) -> str:
    return str(re2.sub(rewrite["pattern"].get("regex", ""), rewrite.get("substitution", ""), path))


def _headed(messages: Sequence[Data], request: Request) -> Request:
    """The request after `request_headers_to_remove` and `request_headers_to_add`."""
    headers = list(request.headers)
    host = request.host
    for message in messages:
        gone = {name.lower() for name in message.get("request_headers_to_remove", [])}
        headers = [pair for pair in headers if pair[0] not in gone]
        for item in message.get("request_headers_to_add", []):
            name, value = item["header"]["key"].lower(), item["header"].get("value", "")
            if item.get("append_action") == "OVERWRITE_IF_EXISTS_OR_ADD":
                headers = [pair for pair in headers if pair[0] != name]
            headers.append((name, value))
        host = message.get("host_rewrite_literal", host)
    return replace(request, headers=tuple(headers), host=host)


def answer_of(route: Data, request: Request) -> str:
    """What a route answers by itself; '' where it forwards."""
    if "direct_response" in route:
        return f"{route['direct_response'].get('status', 200)} directly"
    if "redirect" not in route:
        return ""
    action = route["redirect"]
    codes = {"FOUND": 302, "SEE_OTHER": 303, "TEMPORARY_REDIRECT": 307, "PERMANENT_REDIRECT": 308}
    scheme = "https" if action.get("https_redirect") else action.get("scheme_redirect", request.scheme)
    host = action.get("host_redirect", without_port(request.host))
    port = f":{action['port_redirect']}" if action.get("port_redirect") else ""
    path = action.get("path_redirect", request.path)
    if "prefix_rewrite" in action:
        path = _rewritten(action, route.get("match", {}), request).path
    return f"{codes.get(action.get('response_code', ''), 301)} to {scheme}://{host}{port}{path}"
