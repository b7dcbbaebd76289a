"""Routes to model servers without a timeout of their own: "never trust default timeouts".

HR0101. A route whose destinations are all Workloads that name an `engine` gets that engine's explicit timeout, or that
of an InferencePolicy (`timeouts.total`); for any other route that looks like inference, nobody says how long an answer
may take. Called by `analyse`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set

from headrace.config.analysis.codes import Code
from headrace.config.analysis.index import Index
from headrace.model.problem import Problem
from headrace.model.traffic import HttpMatch, HttpRoute, StringMatch, VirtualService

API_PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/v1/rerank",
    "/v1/audio/",
    "/v1/images/",
    "/api/generate",
    "/api/chat",
    "/generate",
    "/generate_stream",
    "/v2/models/",
)
"""Paths of model servers' APIs: OpenAI's, Anthropic's, and those of Ollama, TGI and Triton."""
API_HOSTS = (
    "api.openai.com",
    "api.anthropic.com",
    "api.mistral.ai",
    "api.groq.com",
    "api.together.xyz",
    "api.deepseek.com",
    "api.cohere.com",
    "openrouter.ai",
    "generativelanguage.googleapis.com",
)
"""Hosts of models that somebody else runs."""
API_PORTS = (11434,)
"""Ports that only one model server has: Ollama's."""
WORDS = frozenset(
    (
        "vllm",
        "sglang",
        "tgi",
        "trtllm",
        "triton",
        "llamacpp",
        "ollama",
        "openai",
        "llm",
        "llms",
        "llama",
        "inference",
        "model",
        "models",
    )
)
"""Words of a service's name that say that it serves models."""


def judge_timeouts(index: Index) -> Iterator[Problem]:
    """HR0101 for every inference route that has no timeout and gets no default."""
    limited = {
        target.host(policy.meta.namespace)
        for policy in index.inference_policies
        if policy.timeouts.total is not None
        for target in policy.targets
    }
    for rule in index.virtual_services:
        for route in rule.http:
            if route.timeout is not None or not route.route or _has_default(index, rule, route, limited):
                continue
            reason = _inference(route)
            if reason:
                yield index.problem(
                    rule.meta,
                    Code.NO_TIMEOUT,
                    f"spec.http[{route.position}]",
                    f"This route looks like inference ({reason}) and has no timeout: a request may hang for ever.",
                    "Never trust default timeouts: set timeout (the longest answer that you accept, such as 300s), or "
                    "name the engine in the Workload, which brings an explicit default.",
                )


def _has_default(index: Index, rule: VirtualService, route: HttpRoute, limited: Set[str]) -> bool:
    """Whether every destination is a service of which all workloads name an engine, or one of `limited`, whose policy
    says how long an answer may take."""
    for weighted in route.route:
        if weighted.destination.host in limited:
            continue
        target = index.find_target(weighted.destination.host, (rule.meta.namespace,))
        running = list(index.workloads_of(target)) if target else []
        if not running or any(found.engine is None for found in running):
            return False
    return True


def _inference(route: HttpRoute) -> str:
    """Why the route looks like inference; empty where it does not."""
    for match in route.matches:
        path = _api_path(match)
        if path:
            return f"path {path}"
    for weighted in route.route:
        destination = weighted.destination
        if destination.port in API_PORTS:
            return f"port {destination.port}"
        name = destination.host.partition(".")[0]
        if destination.host in API_HOSTS or WORDS & set(re.split(r"[^a-z0-9]+", name)):
            return f"host {destination.host}"
    return ""


def _api_path(match: HttpMatch) -> str:
    uri: StringMatch | None = match.uri
    if uri is None:
        return ""
    text = uri.value.lower()
    plain = text.replace("\\", "")
    return next((uri.value for path in API_PATHS if path in plain or path.rstrip("/") == plain.rstrip("/")), "")
