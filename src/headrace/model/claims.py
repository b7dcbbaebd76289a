"""Names of claims of a JSON Web Token, as policies and routes write them.

Read by `config` (is it one) and `envoy.translate` (where it is).
"""

from __future__ import annotations

import re

ROUTING_CLAIM = "@request.auth.claims"
"""Begin of the header name by which a VirtualService matches a claim (Istio's form)."""
_BRACKETS = re.compile(r"(\[[^\[\]]*\])+")


def claim_path(rest: str) -> tuple[str, ...]:
    """The claim, and the claims inside it, that `[outer][inner]` names; where brackets do not pair so, one name."""
    if _BRACKETS.fullmatch(rest):
        return tuple(rest[1:-1].split("]["))
    return (rest[1:-1],)


def routing_claim(header: str) -> tuple[str, ...]:
    """The claim that a header match of a VirtualService is about: `@request.auth.claims.a.b` or `...claims[a][b]`;
    empty where it is about a header."""
    if not header.lower().startswith(ROUTING_CLAIM):
        return ()
    rest = header[len(ROUTING_CLAIM) :]
    if rest.startswith(".") and len(rest) > 1:
        return tuple(rest[1:].split("."))
    if rest.startswith("[") and rest.endswith("]") and len(rest) > 2:
        return tuple(rest[1:-1].split("]["))
    return ()
