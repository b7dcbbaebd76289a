"""How requests to a pool of model servers are picked, held and shed: what an InferencePolicy says.

Made by `config.kinds.inference_policy`, read by `registry` (which policy speaks for which service) and
`envoy.translate.pools`. None always means "not written". Times in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from headrace.model.credential import Credential
from headrace.model.names import service_fqdn
from headrace.model.resource import Metadata

POOL_GROUP = "inference.networking.k8s.io"
"""API group of InferencePool (Gateway API Inference Extension 1.0)."""
POOL_KIND = f"{POOL_GROUP}/InferencePool"
"""An InferencePool's kind as it stands in a ResourceKey."""
ENTRY_GROUP = "networking.istio.io"
"""API group of ServiceEntry."""
ENTRY_KIND = f"{ENTRY_GROUP}/ServiceEntry"
"""A ServiceEntry's kind as it stands in a ResourceKey."""
POOL_DOMAIN = "inference.local"
"""What ends the host names of InferencePools; `check` refuses nothing else below it, but nobody should use it."""


def pool_host(name: str, namespace: str) -> str:
    """The host name by which an InferencePool is called: `chat`, `default` → `chat.default.inference.local`."""
    return f"{name}.{namespace}.{POOL_DOMAIN}"


class PickPolicy(StrEnum):
    """How a pool chooses an endpoint (native/scheduler, `Policy`)."""

    PREDICTED_DRAIN = "predicted-drain"
    LEAST_REQUEST = "least-request"
    ROUND_ROBIN = "round-robin"
    PREFIX = "prefix"
    RANDOM_TWO = "random-two"


class FairnessKey(StrEnum):
    """What tells tenants apart: the caller's mTLS identity, a request header, or a claim of a verified JWT."""

    IDENTITY = "identity"
    HEADER = "header"
    JWT_CLAIM = "jwtClaim"


class OverflowAction(StrEnum):
    """What happens to a request that the queue does not take."""

    REJECT = "Reject"
    REDIRECT = "Redirect"


@dataclass(frozen=True, slots=True, order=True)
class TargetRef:
    """What a policy is for: an object of the policy's own namespace (Gateway API's LocalPolicyTargetReference)."""

    group: str
    kind: str
    name: str

    def host(self, namespace: str) -> str:
        """The host name of the Service or InferencePool."""
        return pool_host(self.name, namespace) if self.group == POOL_GROUP else service_fqdn(self.name, namespace)


@dataclass(frozen=True, slots=True)
class Picking:
    """How an endpoint is chosen. `session_header`: requests with the same value of it stay on one endpoint; `warmup`:
    for so long a new endpoint gets less than its share."""

    policy: PickPolicy = PickPolicy.PREDICTED_DRAIN
    session_header: str = ""
    warmup: float | None = None


@dataclass(frozen=True, slots=True)
class Queue:
    """Bounds of what waits: requests, tokens of their prompts, and seconds of one wait."""

    depth: int | None = None
    tokens: int | None = None
    time: float | None = None


@dataclass(frozen=True, slots=True)
class Priorities:
    """Strict priorities: the request header that names one, the names from first to last (requests without the header,
    or with another value, come after them all), and after how long a waiting request goes before all (the starvation
    bound)."""

    header: str
    levels: tuple[str, ...]
    starvation: float | None = None


@dataclass(frozen=True, slots=True)
class Fairness:
    """Fair share between tenants: what tells them apart (`name`: the header or the claim), their weights (1 for those
    without), what one of them may have waiting (`depth` requests, `tokens` of their prompts), and what a token of a
    prompt counts in the share beside 256 for the request."""

    key: FairnessKey
    name: str = ""
    weights: tuple[tuple[str, float], ...] = ()
    depth: int | None = None
    tokens: int | None = None
    token_cost: float | None = None


@dataclass(frozen=True, slots=True)
class Deadline:
    """When the first token of an answer is due, from the request's arrival: what a request header says in milliseconds
    ('' : none), else `default`. What cannot meet its own is refused at once."""

    header: str = ""
    default: float | None = None


@dataclass(frozen=True, slots=True)
class Overflow:
    """What becomes of what does not fit. `backend` is where REDIRECT sends it, a subset of it ('' : all of it); `port`
    0: the backend's only one, else the one of the pool's that overflowed."""

    action: OverflowAction = OverflowAction.REJECT
    backend: TargetRef | None = None
    port: int = 0
    subset: str = ""


@dataclass(frozen=True, slots=True)
class Admission:
    """Who may pass when. `rate` is requests a second, `burst` how many may pass at once after a pause; `concurrency` is
    requests in flight at one endpoint (`learned_concurrency`: as many as it is known to run), `pool_concurrency` in the
    whole pool."""

    rate: float | None = None
    burst: int | None = None
    concurrency: int | None = None
    pool_concurrency: int | None = None
    queue: Queue | None = None
    priorities: Priorities | None = None
    fairness: Fairness | None = None
    deadline: Deadline | None = None
    overflow: Overflow = Overflow()
    learned_concurrency: bool = False


@dataclass(frozen=True, slots=True)
class StreamTimeouts:
    """How long a caller waits for the first token, between two tokens, and for the whole answer; `keepalive`: how often
    a caller of a stream hears, while it waits, that the connection lives; `upload`: how long the rest of a body may
    take that goes on to a server before it is whole."""

    first_token: float | None = None
    between_tokens: float | None = None
    total: float | None = None
    keepalive: float | None = None
    upload: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class InferencePolicy:
    """A `headrace.dev/v1alpha1 InferencePolicy`. `retries`: how often a request may be sent again while no byte of an
    answer has reached the client (0 or 1; None: not written). `inject_usage`: streams are asked for their usage where
    the client did not ask, and what came of it is taken out again. `entries`: the ServiceEntries of its namespace that
    it is for; such a policy has no other targets, and says nothing but `credential`: what the proxies of its namespace
    put into requests."""

    meta: Metadata
    targets: tuple[TargetRef, ...]
    picking: Picking = Picking()
    admission: Admission = field(default_factory=Admission)
    timeouts: StreamTimeouts = field(default_factory=StreamTimeouts)
    retries: int | None = None
    inject_usage: bool = False
    credential: Credential | None = None
    entries: tuple[str, ...] = ()

    @property
    def redirects(self) -> TargetRef | None:
        """Where requests that do not fit are sent (None: they are rejected)."""
        overflow = self.admission.overflow
        return overflow.backend if overflow.action is OverflowAction.REDIRECT else None
