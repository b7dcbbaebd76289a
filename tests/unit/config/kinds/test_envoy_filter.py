"""EnvoyFilter: what is accepted, what is refused and where, and what a patch becomes."""

from __future__ import annotations

import textwrap

import pytest
from envoy.config.cluster.v3 import cluster_pb2

from headrace.model.envoy_filter import ApplyTo, ClusterMatch, ListenerMatch, Operation, PatchContext, RouteMatch

LUA = '{"@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua}'
HCM = "envoy.filters.network.http_connection_manager"


def document(patch: str, more: str = "") -> str:
    head = "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: f}\nspec:\n"
    lines = textwrap.indent(textwrap.dedent(patch).strip("\n"), "    ")
    return head + (f"  {more}\n" if more else "") + "  configPatches:\n  -" + lines[3:] + "\n"


def test_a_patch_holds_the_message_of_its_object(judge):
    verdict = judge(
        document(
            """
            applyTo: CLUSTER
            match: {context: SIDECAR_OUTBOUND, cluster: {service: a.b, portNumber: 80, subset: v1}}
            patch: {operation: MERGE, value: {connectTimeout: 250ms}}
            """,
            more="priority: -3",
        )
    )
    assert verdict.problems == ()
    (patch,) = verdict.resource.patches
    assert (patch.apply_to, patch.operation, patch.context) == (
        ApplyTo.CLUSTER,
        Operation.MERGE,
        PatchContext.SIDECAR_OUTBOUND,
    )
    assert patch.cluster == ClusterMatch(port=80, service="a.b", subset="v1")
    assert cluster_pb2.Cluster.FromString(patch.value).connect_timeout.nanos == 250_000_000
    assert verdict.resource.priority == -3


def test_matches_keep_what_is_written_apart_from_what_is_not(judge):
    verdict = judge(
        document(
            f"""
            applyTo: HTTP_FILTER
            match: {{listener: {{filterChain: {{applicationProtocols: "a,b", filter: {{name: {HCM}}}}}}}}}
            patch: {{operation: REMOVE}}
            """
        )
    )
    (patch,) = verdict.resource.patches
    assert patch.listener == ListenerMatch(application_protocols=("a", "b"), filter=HCM, sub_filter=None)
    verdict = judge(
        document(
            """
            applyTo: HTTP_ROUTE
            match: {routeConfiguration: {vhost: {route: {action: ROUTE}}}}
            patch: {operation: REMOVE}
            """
        )
    )
    (patch,) = verdict.resource.patches
    assert patch.route == RouteMatch(vhost=True, route=True, action="ROUTE")


REJECTED = {
    "no applyTo": ("patch: {operation: REMOVE}", "applyTo"),
    "no patch": ("applyTo: CLUSTER", "patch"),
    "no operation": ("{applyTo: CLUSTER, patch: {value: {}}}", "patch.operation"),
    "no value": ("{applyTo: CLUSTER, patch: {operation: MERGE}}", "patch.value"),
    "a value that the enum has not": (
        "{applyTo: CLUSTER, patch: {operation: MERGE, value: {lb_policy: BEST}}}",
        "patch.value",
    ),
    "a type that is no text": (
        '{applyTo: CLUSTER, patch: {operation: MERGE, value: {transport_socket: {typed_config: {"@type": [1]}}}}}',
        "patch.value",
    ),
    "another object": ("{applyTo: CLUSTER, match: {listener: {}}, patch: {operation: REMOVE}}", "match.listener"),
    "a table for a listener": (
        "{applyTo: LISTENER, match: {routeConfiguration: {}}, patch: {operation: REMOVE}}",
        "match.routeConfiguration",
    ),
    "two objects": (
        "{applyTo: CLUSTER, match: {listener: {}, cluster: {}}, patch: {operation: REMOVE}}",
        "match.cluster",
    ),
    "a filter without a name": (
        "{applyTo: NETWORK_FILTER, match: {listener: {filterChain: {filter: {}}}}, patch: {operation: REMOVE}}",
        "match.listener.filterChain.filter.name",
    ),
    "a pattern": (
        "{applyTo: CLUSTER, match: {proxy: {proxyVersion: '(?<'}}, patch: {operation: REMOVE}}",
        "match.proxy.proxyVersion",
    ),
    "an unknown type": (
        '{applyTo: HTTP_FILTER, patch: {operation: ADD, value: {typed_config: {"@type": x/envoy.nope.v3.A}}}}',
        "patch.value",
    ),
    "a wrong value": ("{applyTo: CLUSTER, patch: {operation: ADD, value: {name: [1]}}}", "patch.value.name"),
    "a waypoint's context alone": (
        "{applyTo: CLUSTER, match: {context: WAYPOINT}, patch: {operation: REMOVE}}",
        "match",
    ),
    "a waypoint elsewhere": ("{applyTo: CLUSTER, match: {waypoint: {}}, patch: {operation: REMOVE}}", "match"),
}


@pytest.mark.parametrize(("patch", "field"), REJECTED.values(), ids=REJECTED)
def test_what_is_refused_names_the_patch(judge, patch, field):
    verdict = judge(document(patch))
    assert verdict.resource is None
    assert f"spec.configPatches[0].{field}".startswith(verdict.errors[0].field), verdict.problems


@pytest.mark.parametrize(
    ("patch", "code"),
    [
        ("{applyTo: BOOTSTRAP, patch: {operation: MERGE, value: {}}}", "HR0001"),
        ("{applyTo: CLUSTER, patch: {operation: REPLACE, value: {name: a}}}", "HR0002"),
        ("{applyTo: CLUSTER, match: {context: WAYPOINT, waypoint: {}}}", "HR0002"),
        (
            "{applyTo: HTTP_FILTER, patch: {operation: ADD, value: {typed_config: "
            '{"@type": x/envoy.extensions.vcl.v3alpha.A}}}}',
            "HR0002",
        ),
        (
            "{applyTo: CLUSTER, match: {proxy: {proxyVersion: '" + "a" * 1025 + "'}}, patch: {operation: REMOVE}}",
            "IST0133",
        ),
    ],
)
def test_what_does_nothing_is_said_and_kept_out(judge, patch, code):
    verdict = judge(document(patch))
    assert [problem.code for problem in verdict.problems] == [code]
    assert verdict.resource.patches == ()


def test_patches_for_other_versions_are_for_nobody_here(judge):
    text = "{{applyTo: CLUSTER, match: {{proxy: {{proxyVersion: '{}'}}}}, patch: {{operation: REMOVE}}}}"
    assert judge(document(text.format(r"^1\.2\d.*"))).resource.patches == ()
    assert len(judge(document(text.format(r"^1\.3\d.*"))).resource.patches) == 1


def test_unknown_fields_and_filters_by_name_are_warnings(judge):
    verdict = judge(document("{applyTo: HTTP_FILTER, patch: {operation: ADD, value: {name: envoy.lua, colour: red}}}"))
    assert [problem.code for problem in verdict.problems] == ["IST0133", "IST0133"]
    assert len(verdict.resource.patches) == 1


def test_a_selector_and_targets_exclude_each_other(judge):
    more = "workloadSelector: {labels: {a: b}}\n  targetRefs: [{kind: Service, name: a}]"
    verdict = judge(document("{applyTo: CLUSTER, patch: {operation: REMOVE}}", more))
    assert [problem.field for problem in verdict.errors] == ["spec.targetRefs"]
