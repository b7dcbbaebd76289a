"""InferencePool and InferencePolicy: what is accepted, what it becomes, and how the rest is refused."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

from headrace.config.documents import read_text
from headrace.config.schema import Validated, validate
from headrace.model.inference import (
    Deadline,
    Fairness,
    FairnessKey,
    InferencePolicy,
    PickPolicy,
    Priorities,
    Queue,
    StreamTimeouts,
    TargetRef,
)
from headrace.model.service import Protocol, Service

POOL = "apiVersion: inference.networking.k8s.io/v1\nkind: InferencePool\nmetadata: {name: chat, namespace: ai}\nspec:\n"
POLICY = "apiVersion: headrace.dev/v1alpha1\nkind: InferencePolicy\nmetadata: {name: chat, namespace: ai}\nspec:\n"
REFS = "targetRefs: [{kind: Service, name: chat}]\n"
SELECTS = "selector: {matchLabels: {app: chat}}\n"


def judge(head: str, spec: str) -> Validated:
    (document,) = read_text(head + textwrap.indent(textwrap.dedent(spec), "  "), "a.yaml", "test").documents
    return validate(document)


def good(head: str, spec: str) -> Any:
    result = judge(head, spec)
    assert [problem.as_line() for problem in result.problems] == []
    return result.resource


def refused(head: str, spec: str) -> list[tuple[str, str]]:
    result = judge(head, spec)
    assert result.resource is None
    return [(problem.code, problem.field) for problem in result.problems if problem.code == "IST0106"]


def test_a_pool_is_a_service_with_a_name_of_its_own() -> None:
    pool = good(POOL, SELECTS + "targetPorts: [{number: 8000}, {number: 8001}]")
    assert isinstance(pool, Service)
    assert (pool.host, pool.namespace, pool.pool, pool.kubernetes) == ("chat.ai.inference.local", "ai", True, False)
    assert pool.selector == {"app": "chat"}
    (port,) = pool.ports
    assert (port.number, port.target, port.more_targets, port.protocol) == (8000, 8000, (8001,), Protocol.HTTP)


def test_h2c_is_http2_in_clear_text() -> None:
    pool = good(POOL, SELECTS + "targetPorts: [{number: 8000}]\nappProtocol: kubernetes.io/h2c")
    assert pool.ports[0].protocol is Protocol.HTTP2


def test_a_picker_outside_is_accepted_and_said_to_have_no_effect() -> None:
    result = judge(POOL, SELECTS + "targetPorts: [{number: 8000}]\nendpointPickerRef: {name: epp, portNumber: 9002}")
    (problem,) = result.problems
    assert (problem.code, problem.field) == ("HR0002", "spec.endpointPickerRef")
    assert result.resource.host == "chat.ai.inference.local"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ("targetPorts: [{number: 8000}]", "spec.selector"),
        ("selector: {matchLabels: {}}\ntargetPorts: [{number: 8000}]", "spec.selector.matchLabels"),
        (SELECTS, "spec.targetPorts"),
        (SELECTS + "targetPorts: []", "spec.targetPorts"),
        (SELECTS + "targetPorts: [" + ", ".join(f"{{number: {n}}}" for n in range(1, 10)) + "]", "spec.targetPorts"),
        (SELECTS + "targetPorts: [{number: 8000}, {number: 8000}]", "spec.targetPorts[1].number"),
        (SELECTS + "targetPorts: [{number: 70000}]", "spec.targetPorts[0].number"),
        (SELECTS + "targetPorts: [{number: 1}]\nappProtocol: grpc", "spec.appProtocol"),
        (SELECTS + "targetPorts: [{number: 1}]\nextensionRef: {name: x}", "spec.extensionRef"),
        (SELECTS + "targetPorts: [{number: 1}]\nendpointPickerRef: {}", "spec.endpointPickerRef.name"),
        (
            SELECTS + "targetPorts: [{number: 1}]\nendpointPickerRef: {name: a, failureMode: Maybe}",
            "spec.endpointPickerRef.failureMode",
        ),
    ],
)
def test_what_a_pool_may_not_say(spec: str, field: str) -> None:
    assert refused(POOL, spec) == [("IST0106", field)]


def test_a_policy_in_full() -> None:
    policy = good(
        POLICY,
        """\
        targetRefs:
        - {kind: Service, name: chat}
        - {group: inference.networking.k8s.io, kind: InferencePool, name: big}
        picking: {policy: predicted-drain, sessionHeader: X-Session, warmup: 30s}
        admission:
          requestsPerSecond: 20
          burst: 5
          concurrencyPerEndpoint: 8
          queue: {depth: 30, tokens: 100000, time: 1500ms}
          priorities: {header: X-Priority, levels: [chat, api, batch], starvation: 1s}
          fairness: {key: header, name: X-Tenant, weights: {gold: 4, iron: 0.5}}
          firstTokenDeadline: {header: X-Slo-Ttft-Ms, default: 5s}
          overflow: {action: Reject}
        timeouts: {firstToken: 30s, betweenTokens: 10s, total: 10m, keepalive: 15s}
        retries: {attempts: 1}
        observation: {usage: Inject}
        """,
    )
    assert isinstance(policy, InferencePolicy)
    assert policy.targets == (
        TargetRef("", "Service", "chat"),
        TargetRef("inference.networking.k8s.io", "InferencePool", "big"),
    )
    assert [target.host("ai") for target in policy.targets] == [
        "chat.ai.svc.cluster.local",
        "big.ai.inference.local",
    ]
    assert policy.picking.policy is PickPolicy.PREDICTED_DRAIN
    assert (policy.picking.session_header, policy.picking.warmup) == ("x-session", 30.0)
    admission = policy.admission
    assert (admission.rate, admission.burst, admission.concurrency) == (20.0, 5, 8)
    assert admission.queue == Queue(30, 100_000, 1.5)
    assert admission.priorities == Priorities("x-priority", ("chat", "api", "batch"), 1.0)
    assert admission.fairness == Fairness(FairnessKey.HEADER, "x-tenant", (("gold", 4.0), ("iron", 0.5)))
    assert (policy.retries, policy.inject_usage) == (1, True)
    assert admission.deadline == Deadline("x-slo-ttft-ms", 5.0)
    assert policy.timeouts == StreamTimeouts(30.0, 10.0, 600.0, 15.0)


def test_a_policy_that_only_names_its_target_has_every_default() -> None:
    policy = good(POLICY, REFS)
    assert policy.picking.policy is PickPolicy.PREDICTED_DRAIN
    assert policy.admission.rate is None
    assert policy.retries is None


@pytest.mark.parametrize(
    ("fairness", "wanted"),
    [
        ("{key: identity}", Fairness(FairnessKey.IDENTITY)),
        ("{key: jwtClaim, name: org.Team}", Fairness(FairnessKey.JWT_CLAIM, "org.Team")),
        (
            "{key: header, name: X-Team, tenantQueue: {depth: 5, tokens: 900}, tokenCost: 0}",
            Fairness(FairnessKey.HEADER, "x-team", (), 5, 900, 0.0),
        ),
    ],
)
def test_what_tells_tenants_apart(fairness: str, wanted: Fairness) -> None:
    queue = "requestsPerSecond: 1, queue: {depth: 9, time: 1s}"
    assert good(POLICY, REFS + f"admission: {{{queue}, fairness: {fairness}}}").admission.fairness == wanted


def test_what_does_not_fit_may_be_sent_elsewhere() -> None:
    backend = "{group: inference.networking.k8s.io, kind: InferencePool, name: spare, port: 8001, subset: v2}"
    policy = good(POLICY, REFS + f"admission: {{concurrency: 4, overflow: {{action: Redirect, backend: {backend}}}}}")
    assert policy.admission.pool_concurrency == 4
    assert policy.redirects == TargetRef("inference.networking.k8s.io", "InferencePool", "spare")
    assert (policy.admission.overflow.port, policy.admission.overflow.subset) == (8001, "v2")
    assert good(POLICY, REFS).redirects is None


def test_a_warm_up_that_its_policy_knows_nothing_of_is_said() -> None:
    result = judge(POLICY, REFS + "picking: {policy: least-request, warmup: 30s}")
    assert [(problem.code, problem.field) for problem in result.problems] == [("HR0002", "spec.picking.warmup")]
    assert result.resource.picking.policy is PickPolicy.LEAST_REQUEST


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ("picking: {policy: round-robin, sessionHeader: x-s}", "picking.sessionHeader"),
        ("picking: {policy: random-two, sessionHeader: x-s}", "picking.sessionHeader"),
        ("timeouts: {upload: 9s}", "timeouts.upload"),
        (
            "admission: {concurrency: 1, queue: {depth: 3, time: 1s}, fairness: {key: identity, weights: {team-a: 2}}}",
            "admission.fairness.weights.team-a",
        ),
        (
            "admission: {concurrency: 1, queue: {depth: 3, time: 1s},"
            " fairness: {key: identity, weights: {'spiffe://m/ns/a/sa/b': 2, anonymous: 1}}}",
            "",
        ),
        ("picking: {policy: prefix, sessionHeader: x-s}", ""),
        ("admission: {concurrency: 1}\ntimeouts: {upload: 9s}", ""),
    ],
)
def test_what_has_no_effect_is_said(spec: str, field: str) -> None:
    result = judge(POLICY, REFS + spec)
    wanted = [("HR0002", f"spec.{field}")] if field else []
    assert [(problem.code, problem.field) for problem in result.problems] == wanted


def test_as_many_as_an_endpoint_is_known_to_run() -> None:
    policy = good(POLICY, REFS + "admission: {concurrencyPerEndpoint: Auto, queue: {depth: 9, time: 1s}}")
    assert (policy.admission.learned_concurrency, policy.admission.concurrency) == (True, None)
    policy = good(POLICY, REFS + "admission: {concurrencyPerEndpoint: '8'}\ntimeouts: {upload: 9s}")
    assert (policy.admission.learned_concurrency, policy.admission.concurrency) == (False, 8)
    assert policy.timeouts.upload == 9.0


def test_a_bound_of_a_tenant_that_cannot_bind_is_said() -> None:
    fairness = "fairness: {key: identity, tenantQueue: {depth: 5}}"
    result = judge(POLICY, REFS + f"admission: {{concurrency: 1, queue: {{depth: 3, time: 1s}}, {fairness}}}")
    assert [(problem.code, problem.field) for problem in result.problems] == [
        ("HR0002", "spec.admission.fairness.tenantQueue.depth")
    ]


@pytest.mark.parametrize(
    ("admission", "fields"),
    [
        ("requestsPerSecond: 5, queue: {tokens: 100}", ["queue"]),
        ("requestsPerSecond: 5, queue: {depth: 0}", []),
        ("concurrency: 1, priorities: {header: x-p, levels: [a]}", ["priorities"]),
        ("fairness: {key: header, name: x-team}", ["fairness"]),
        (
            "concurrency: 1, queue: {depth: 3, time: 5s}, priorities: {header: x-p, levels: [a], starvation: 5s}",
            ["priorities.starvation"],
        ),
        ("concurrency: 1, queue: {depth: 3, time: 5s}, priorities: {header: x-p, levels: [a], starvation: 4s}", []),
    ],
)
def test_what_orders_a_queue_in_which_nothing_waits_is_said(admission: str, fields: list[str]) -> None:
    result = judge(POLICY, REFS + f"admission: {{{admission}}}")
    assert [(problem.code, problem.field) for problem in result.problems] == [
        ("HR0002", f"spec.admission.{field}") for field in fields
    ]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ("targetRefs: []", "spec.targetRefs"),
        ("targetRefs: [{kind: Deployment, name: chat}]", "spec.targetRefs[0].kind"),
        ("targetRefs: [{kind: InferencePool, name: chat}]", "spec.targetRefs[0].group"),
        ("targetRefs: [{kind: Service, name: chat, namespace: other}]", "spec.targetRefs[0].namespace"),
        ("targetRefs: [{kind: Service, name: chat}, {kind: Service, name: chat}]", "spec.targetRefs[1]"),
        (REFS + "picking: {policy: best}", "spec.picking.policy"),
        (REFS + "admission: {requestsPerSecond: 0}", "spec.admission.requestsPerSecond"),
        (REFS + "admission: {burst: 3}", "spec.admission.burst"),
        (REFS + "admission: {queue: {depth: 3, time: 1s}}", "spec.admission.queue"),
        (REFS + "admission: {requestsPerSecond: 1, queue: {depth: 3}}", "spec.admission.queue"),
        (REFS + "admission: {requestsPerSecond: 1, queue: {depth: -1, time: 1s}}", "spec.admission.queue.depth"),
        (REFS + "admission: {priorities: {header: p, levels: []}}", "spec.admission.priorities.levels"),
        (REFS + "admission: {priorities: {header: p, levels: [a, a]}}", "spec.admission.priorities.levels"),
        (REFS + "admission: {fairness: {key: header}}", "spec.admission.fairness"),
        (REFS + "admission: {fairness: {key: header, name: 'a b'}}", "spec.admission.fairness.name"),
        (REFS + "admission: {fairness: {key: identity, name: a}}", "spec.admission.fairness.name"),
        (REFS + "admission: {fairness: {key: jwtClaim}}", "spec.admission.fairness"),
        (
            REFS + "admission: {fairness: {key: identity, tenantQueue: {depth: 1}}}",
            "spec.admission.fairness.tenantQueue",
        ),
        (REFS + "admission: {fairness: {key: identity, tokenCost: -1}}", "spec.admission.fairness.tokenCost"),
        (REFS + "admission: {concurrency: 0}", "spec.admission.concurrency"),
        (REFS + f"picking: {{sessionHeader: {'h' * 257}}}", "spec.picking.sessionHeader"),
        (REFS + "admission: {priorities: {header: p, levels: ['a,b']}}", "spec.admission.priorities.levels[0]"),
        (
            REFS + f"admission: {{priorities: {{header: p, levels: [{'l' * 257}]}}}}",
            "spec.admission.priorities.levels[0]",
        ),
        (REFS + f"admission: {{fairness: {{key: jwtClaim, name: {'n' * 257}}}}}", "spec.admission.fairness.name"),
        (
            REFS + f"admission: {{firstTokenDeadline: {{header: {'h' * 257}}}}}",
            "spec.admission.firstTokenDeadline.header",
        ),
        (REFS + "admission: {fairness: {key: header, name: t, weights: {a: 0}}}", "spec.admission.fairness.weights.a"),
        (REFS + "admission: {firstTokenDeadline: {}}", "spec.admission.firstTokenDeadline"),
        (REFS + "admission: {overflow: {action: Redirect}}", "spec.admission.overflow"),
        (REFS + "admission: {overflow: {action: Spill}}", "spec.admission.overflow.action"),
        (REFS + "admission: {overflow: {backend: {kind: Service, name: a}}}", "spec.admission.overflow.backend"),
        (
            REFS + "admission: {overflow: {action: Redirect, backend: {kind: Service, name: a, group: x}}}",
            "spec.admission.overflow.backend.group",
        ),
        (
            REFS + "admission: {overflow: {action: Redirect, backend: {kind: Service, name: a, subset: 'a b'}}}",
            "spec.admission.overflow.backend.subset",
        ),
        (REFS + "timeouts: {firstToken: 2s, total: 1s}", "spec.timeouts.firstToken"),
        (REFS + "timeouts: {betweenTokens: 2s, total: 1s}", "spec.timeouts.betweenTokens"),
        (REFS + "admission: {concurrencyPerEndpoint: Auto}", "spec.admission.concurrencyPerEndpoint"),
        (REFS + "admission: {concurrencyPerEndpoint: auto}", "spec.admission.concurrencyPerEndpoint"),
        (REFS + "admission: {concurrencyPerEndpoint: 0}", "spec.admission.concurrencyPerEndpoint"),
        (REFS + "timeouts: {keepalive: 10ms}", "spec.timeouts.keepalive"),
        (REFS + "retries: {attempts: 2}", "spec.retries.attempts"),
        (REFS + "observation: {usage: Guess}", "spec.observation.usage"),
        (REFS + "budget: {}", "spec.budget"),
    ],
)
def test_what_a_policy_may_not_say(spec: str, field: str) -> None:
    assert refused(POLICY, spec) == [("IST0106", field)]
