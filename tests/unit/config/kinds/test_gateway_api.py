"""The Gateway API's kinds: what the CRDs refuse is refused at its field, and what does nothing says so."""

from __future__ import annotations

import pytest

from headrace.model.gateway_api import From
from headrace.model.traffic import MatchKind

HEAD = "apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: it, namespace: here}}\nspec: "


def document(kind: str, spec: str, version: str = "v1") -> str:
    return HEAD.format(kind=kind, version=version) + spec + "\n"


def listener(text: str) -> str:
    return document("Gateway", f"{{gatewayClassName: istio, listeners: [{text}]}}")


def rule(text: str) -> str:
    return document("HTTPRoute", f"{{rules: [{text}]}}")


REFUSED = {
    "no listener": (document("Gateway", "{gatewayClassName: istio, listeners: []}"), "spec.listeners"),
    "tls of http": (listener("{name: a, port: 80, protocol: HTTP, tls: {options: {a/b: c}}}"), "spec.listeners[0].tls"),
    "https through": (
        listener("{name: a, port: 80, protocol: HTTPS, tls: {mode: Passthrough}}"),
        "spec.listeners[0].tls.mode",
    ),
    "no certificate": (
        listener("{name: a, port: 80, protocol: HTTPS, tls: {}}"),
        "spec.listeners[0].tls.certificateRefs",
    ),
    "tls without tls": (listener("{name: a, port: 80, protocol: TLS}"), "spec.listeners[0].tls"),
    "name of tcp": (listener("{name: a, port: 80, protocol: TCP, hostname: a.b}"), "spec.listeners[0].hostname"),
    "port as text": (listener("{name: a, port: '80', protocol: TCP}"), "spec.listeners[0].port"),
    "name twice": (
        listener("{name: a, port: 80, protocol: TCP}, {name: a, port: 81, protocol: TCP}"),
        "spec.listeners[1]",
    ),
    "same place": (
        listener("{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTP}"),
        "spec.listeners[1]",
    ),
    "address": (
        document(
            "Gateway", "{gatewayClassName: c, listeners: [{name: a, port: 1, protocol: TCP}], addresses: [{value: a}]}"
        ),
        "spec.addresses[0].value",
    ),
    "controller": (document("GatewayClass", "{controllerName: istio}"), "spec.controllerName"),
    "unknown field": (rule("{backends: []}"), "spec.rules[0].backends"),
    "service without port": (rule("{backendRefs: [{name: a}]}"), "spec.rules[0].backendRefs[0].port"),
    "weight": (rule("{backendRefs: [{name: a, port: 1, weight: -1}]}"), "spec.rules[0].backendRefs[0].weight"),
    "relative path": (rule("{matches: [{path: {value: a}}]}"), "spec.rules[0].matches[0].path.value"),
    "dots in path": (rule("{matches: [{path: {value: /a/../b}}]}"), "spec.rules[0].matches[0].path.value"),
    "pattern": (
        rule("{matches: [{path: {type: RegularExpression, value: '(a'}}]}"),
        "spec.rules[0].matches[0].path",
    ),
    "header twice": (
        rule("{matches: [{headers: [{name: a, value: b}, {name: a, value: c}]}]}"),
        "spec.rules[0].matches[0].headers[1]",
    ),
    "filter without its field": (rule("{filters: [{type: CORS}]}"), "spec.rules[0].filters[0].cors"),
    "filter with another's field": (
        rule("{filters: [{type: CORS, cors: {}, extensionRef: {group: a, kind: B, name: c}}]}"),
        "spec.rules[0].filters[0].extensionRef",
    ),
    "filter twice": (
        rule("{filters: [{type: CORS, cors: {}}, {type: CORS, cors: {}}]}"),
        "spec.rules[0].filters[1].type",
    ),
    "redirect and backend": (
        rule("{filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: a, port: 1}]}"),
        "spec.rules[0].filters[0].type",
    ),
    "prefix of two matches": (
        rule(
            "{matches: [{}, {}], filters: [{type: URLRewrite, urlRewrite: "
            "{path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]}"
        ),
        "spec.rules[0].filters[0]",
    ),
    "longer attempt": (rule("{timeouts: {request: 1s, backendRequest: 2s}}"), "spec.rules[0].timeouts.backendRequest"),
    "odd duration": (rule("{timeouts: {request: 1.5s}}"), "spec.rules[0].timeouts.request"),
    "percent and fraction": (
        rule(
            "{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, percent: 1, "
            "fraction: {numerator: 1}}}]}"
        ),
        "spec.rules[0].filters[0].requestMirror.fraction",
    ),
    "parent twice": (document("HTTPRoute", "{parentRefs: [{name: a}, {name: a}]}"), "spec.parentRefs[1]"),
    "parent twice, once with a section": (
        document("HTTPRoute", "{parentRefs: [{name: a}, {name: a, sectionName: b}]}"),
        "spec.parentRefs[1]",
    ),
    "rules of one name": (rule("{name: a}, {name: a}"), "spec.rules[1].name"),
    "too many matches": (
        document(
            "HTTPRoute", "{rules: [" + ", ".join("{matches: [" + ", ".join(["{}"] * 60) + "]}" for _ in "abc") + "]}"
        ),
        "spec.rules",
    ),
    "grpc method": (
        document("GRPCRoute", "{rules: [{matches: [{method: {service: 'a/b'}}]}]}"),
        "spec.rules[0].matches[0].method.service",
    ),
    "two rules": (
        document("TCPRoute", "{rules: [{backendRefs: [{name: a, port: 1}]}, {backendRefs: [{name: a, port: 1}]}]}"),
        "spec.rules",
    ),
    "tls route for all": (document("TLSRoute", "{rules: [{backendRefs: [{name: a, port: 1}]}]}"), "spec.hostnames"),
    "grant to nobody": (document("ReferenceGrant", "{from: [], to: [{group: '', kind: Secret}]}"), "spec.from"),
    "two kinds of CA": (
        document(
            "BackendTLSPolicy",
            "{targetRefs: [{group: '', kind: Service, name: a}], validation: {hostname: a.b, wellKnownCACertificates: "
            "System, caCertificateRefs: [{group: '', kind: ConfigMap, name: a}]}}",
        ),
        "spec.validation.caCertificateRefs",
    ),
    "name of another type": (
        document(
            "BackendTLSPolicy",
            "{targetRefs: [{group: '', kind: Service, name: a}], validation: {hostname: a.b, wellKnownCACertificates: "
            "System, subjectAltNames: [{type: URI, hostname: a.b}]}}",
        ),
        "spec.validation.subjectAltNames[0].uri",
    ),
}


@pytest.mark.parametrize("which", REFUSED, ids=str)
def test_what_the_crds_refuse_is_refused(judge, which):
    text, field = REFUSED[which]
    verdict = judge(text)
    assert verdict.resource is None
    assert [(problem.code, problem.field) for problem in verdict.errors] == [("IST0106", field)]


WARNED = {
    "protocol": (listener("{name: a, port: 80, protocol: UDP}"), ("HR0001", "spec.listeners[0].protocol")),
    "extension": (
        rule("{filters: [{type: ExtensionRef, extensionRef: {group: a, kind: B, name: c}}]}"),
        ("HR0001", "spec.rules[0].filters[0].type"),
    ),
    "redirect of a backend": (
        rule("{backendRefs: [{name: a, port: 1, filters: [{type: RequestRedirect, requestRedirect: {}}]}]}"),
        ("HR0001", "spec.rules[0].backendRefs[0].filters[0].type"),
    ),
    "session": (rule("{sessionPersistence: {}, backendRefs: []}"), None),
    "session named": (
        rule("{sessionPersistence: {sessionName: a}}"),
        ("HR0001", "spec.rules[0].sessionPersistence"),
    ),
    "default gateways": (document("HTTPRoute", "{useDefaultGateways: All}"), ("HR0002", "spec.useDefaultGateways")),
    "other controller": (document("GatewayClass", "{controllerName: a.b/c}"), ("HR0002", "spec.controllerName")),
    "cipher": (
        listener("{name: a, port: 80, protocol: HTTPS, tls: {options: {gateway.istio.io/tls-cipher-suites: bogus}}}"),
        ("HR0002", 'spec.listeners[0].tls.options["gateway.istio.io/tls-cipher-suites"]'),
    ),
    "operator": (
        listener(
            "{name: a, port: 80, protocol: TCP, allowedRoutes: {namespaces: {from: Selector, selector: "
            "{matchExpressions: [{key: a, operator: Near}]}}}}"
        ),
        ("HR0002", "spec.listeners[0].allowedRoutes.namespaces.selector.matchExpressions[0].operator"),
    ),
}


@pytest.mark.parametrize("which", WARNED, ids=str)
def test_what_does_nothing_says_so(judge, which):
    text, expected = WARNED[which]
    verdict = judge(text)
    assert verdict.resource is not None
    assert verdict.codes == ([expected] if expected else [])


def test_versions_of_before_allow_what_they_did(judge):
    two = "{rules: [{backendRefs: [{name: a, port: 1}]}, {backendRefs: [{name: a, port: 1}]}]}"
    for kind in ("TCPRoute", "TLSRoute"):
        assert judge(document(kind, two, "v1alpha2")).problems == ()


def test_a_route_is_lowered_but_for_its_references(judge):
    route = judge(
        rule(
            "{matches: [{path: {value: /a/}, headers: [{name: X-A, value: b}, {name: x-a, value: c}]}], "
            "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}], "
            "timeouts: {request: 2s, backendRequest: 1s}, backendRefs: [{name: s, port: 80}]}"
        )
    ).resource
    (one,) = route.rules
    assert one.matches[0].uri.kind is MatchKind.SEGMENTS and one.matches[0].uri.value == "/a"
    assert [(name, text.value) for name, text in one.matches[0].headers] == [("x-a", "b")]
    assert (one.action.rewrite.regex_match, one.action.rewrite.regex_rewrite) == ("^/a(/?)(.*)", r"/\2")
    assert one.action.timeout == 1.0 and one.action.name == "here.it.0"
    assert (one.backends[0].ref.kind, one.backends[0].port, one.backends[0].weight) == ("Service", 80, 1)


def test_a_replacement_of_the_root_keeps_the_segments_apart(judge):
    text = "{filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /v1}}}]}"
    assert judge(rule(text)).resource.rules[0].action.rewrite.uri == "/v1/"


def test_listeners_let_in_their_own_namespace_unless_they_say_more(judge):
    gateway = judge(listener("{name: a, port: 80, protocol: TCP}")).resource
    assert gateway.listeners[0].namespaces.source is From.SAME
    assert gateway.allowed_listeners.source is From.NONE
    assert gateway.managed


def test_a_config_map_is_text(judge):
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {ca.crt: x}\n"
    assert judge(text).resource.data == {"ca.crt": "x"}
    assert judge(text.replace("ca.crt: x", "ca.crt: 1")).codes == [("IST0106", 'data["ca.crt"]')]
