"""Where the claims of a verified token are, and how one is matched.

Written by `jwt_authn`; matched by `authorization_values` (policies) and `route_match` (routes by claim). The key is
Istio's. docs/reference/module-config.md says how the native module reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envoy.type.matcher.v3 import metadata_pb2, value_pb2

JWT_FILTER = "envoy.filters.http.jwt_authn"
PAYLOAD = "payload"
"""The key of the filter's dynamic metadata that holds the claims."""


def claim_matcher(path: Sequence[str], texts: Sequence[Any], *, in_list: bool = True) -> Any:
    """A claim (inside other claims, where `path` has several names) fits one of the StringMatchers; `in_list`: or one
    of its items does, where it is a list."""
    values = [value_pb2.ValueMatcher(string_match=text) for text in texts]
    value = values[0] if len(values) == 1 else _any(values)
    if in_list:
        value = _any([value_pb2.ValueMatcher(list_match=value_pb2.ListMatcher(one_of=value)), value])
    segments = [metadata_pb2.MetadataMatcher.PathSegment(key=name) for name in (PAYLOAD, *path)]
    return metadata_pb2.MetadataMatcher(filter=JWT_FILTER, path=segments, value=value)


def _any(values: Sequence[Any]) -> Any:
    return value_pb2.ValueMatcher(or_match=value_pb2.OrMatcher(value_matchers=values))
