"""Join tokens: each lets one host join once, within minutes. Only hashes of their secrets are kept (file, mode 0600).

Held by `hosts_door`; made, listed and withdrawn by the management API (`headrace token`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from headrace.app.control_plane.answers import Refused
from headrace.floor.files import write_private

MOST_TOKENS = 100
"""Tokens kept at once, used ones included (until they would have expired)."""
LONGEST_LIFE = 86400.0
SHORTEST_LIFE = 1.0


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token as it is remembered: `digest` is the SHA-256 (hex) of its secret, times in seconds since the epoch."""

    digest: str
    host: str
    until: float
    used: float = 0.0

    @property
    def id(self) -> str:
        """How people name it: it says nothing of the secret."""
        return self.digest[:12]


class JoinTokens:
    """The tokens of one mesh. `now`: seconds since the epoch; `random_bytes`: the system's, or a test's."""

    def __init__(self, path: Path, now: Callable[[], float], random_bytes: Callable[[int], bytes]) -> None:
        self._path = path
        self._now = now
        self._random = random_bytes
        self._tokens: dict[str, IssuedToken] = {}
        try:
            kept = [IssuedToken(**item) for item in json.loads(path.read_bytes())]
        except FileNotFoundError:
            kept = []
        except (OSError, ValueError, TypeError):
            kept = []  # unreadable: no token counts; people make new ones
        self._tokens = {item.digest: item for item in kept}

    def create(self, host: str, life: float) -> tuple[bytes, IssuedToken]:
        """A new secret for `host`, good once within `life` seconds. Refused where there are too many."""
        if not SHORTEST_LIFE <= life <= LONGEST_LIFE:
            raise Refused(400, f"a join token lives {SHORTEST_LIFE:g} s to {LONGEST_LIFE / 3600:g} h, not {life:g} s")
        self._forget()
        if len(self._tokens) >= MOST_TOKENS:
            raise Refused(409, f"there are {MOST_TOKENS} join tokens already: `headrace token delete ID` removes one")
        secret = self._random(32)
        token = IssuedToken(hashlib.sha256(secret).hexdigest(), host, self._now() + life)
        self._tokens[token.digest] = token
        self._save()
        return secret, token

    def use(self, secret: bytes) -> str:
        """The host that this secret lets in, once: it is spent when this returns. Refused otherwise."""
        token = self._tokens.get(hashlib.sha256(secret).hexdigest())
        if token is None:
            raise Refused(403, "this join token is unknown here (or expired long ago): `headrace token create HOST`")
        if token.until <= self._now():
            raise Refused(403, "this join token has expired: `headrace token create HOST` makes a new one")
        if token.used:
            raise Refused(403, "this join token was used already: `headrace token create HOST` makes a new one")
        self._tokens[token.digest] = replace(token, used=self._now())
        self._save()
        return token.host

    def delete(self, token_id: str) -> None:
        """Withdraw a token; Refused where there is none."""
        found = [item for item in self._tokens.values() if item.id == token_id]
        if not found:
            raise Refused(404, f"no join token {token_id[:40]!r}: `headrace token list` shows them")
        del self._tokens[found[0].digest]
        self._save()

    def listing(self) -> list[IssuedToken]:
        """All that are remembered, the one that ends first first; no secret is in them."""
        self._forget()
        return sorted(self._tokens.values(), key=lambda item: (item.until, item.id))

    def _forget(self) -> None:
        """Expired ones are kept an hour, to say so to who brings one."""
        limit = self._now() - 3600.0
        self._tokens = {item.digest: item for item in self._tokens.values() if item.until > limit}

    def _save(self) -> None:
        rows = [asdict(item) for item in self._tokens.values()]
        write_private(self._path, json.dumps(rows).encode())
