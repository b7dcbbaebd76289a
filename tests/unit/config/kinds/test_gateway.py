"""Gateway: what is accepted, what is refused and where, and what it becomes."""

from __future__ import annotations

import pytest

from headrace.model.gateway import ServerTlsMode, secret_name


def document(servers: str, name: str = "door", selector: str = "{istio: ingressgateway}") -> str:
    return (
        f"apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\n"
        f"spec: {{selector: {selector}, servers: {servers}}}\n"
    )


def server(port: str = "{number: 80, name: http, protocol: HTTP}", hosts: str = "['*']", rest: str = "") -> str:
    return document(f"[{{port: {port}, hosts: {hosts}{', ' if rest else ''}{rest}}}]")


def https(tls: str) -> str:
    return server("{number: 443, name: https, protocol: HTTPS}", rest=f"tls: {tls}")


SERVER = "spec.servers[0]"
TLS = f"{SERVER}.tls"
PORT = f"{SERVER}.port"

ACCEPTED = {
    "http": server(),
    "any case of a protocol": server("{number: 80, name: grpc, protocol: grpc-web}"),
    "hosts of every form": server(hosts="['*', '*.a.com', ns/a.com, ./b.com, '*/c.com', 10.0.0.1]"),
    "redirect to https": server(rest="tls: {httpsRedirect: true}"),
    "secret": https("{mode: SIMPLE, credentialName: a, minProtocolVersion: TLSV1_2, cipherSuites: [AES128-SHA]}"),
    "files": https("{mode: MUTUAL, serverCertificate: /a, privateKey: /b, caCertificates: /c}"),
    "bound to an address": server(rest="bind: 127.0.0.1"),
    "bound to a socket": server("{number: 0, name: a, protocol: HTTP}", rest="bind: unix:///a"),
    "bound to an abstract socket": server("{number: 0, name: a, protocol: TCP}", rest="bind: 'unix://@a'"),
    "tcp": server("{number: 1, name: a, protocol: TCP}"),
    "databases": server("{number: 1, name: a, protocol: MONGO}"),
    "passthrough": https("{mode: PASSTHROUGH}"),
    "auto passthrough": server("{number: 1, name: a, protocol: TLS}", rest="tls: {mode: AUTO_PASSTHROUGH}"),
    "two secrets": https("{mode: SIMPLE, credentialNames: [rsa, ecdsa], ecdhCurves: [X25519]}"),
    "CA of its own": https("{mode: OPTIONAL_MUTUAL, credentialName: a, caCertCredentialName: b}"),
    "any certificate": https("{mode: MUTUAL, credentialName: a, insecureSkipVerify: true}"),
    "files that revoke": https(
        "{mode: MUTUAL, caCertificates: /c, caCrl: /d, tlsCertificates: [{serverCertificate: /a, privateKey: /b}]}"
    ),
}


@pytest.mark.parametrize("text", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_accepted(judge, text):
    verdict = judge(text)
    assert verdict.problems == ()
    assert verdict.resource is not None


REJECTED = {
    "no servers": (document("[]"), "spec.servers", "needs a server"),
    "name with a dot": (document("[]", name="a.b"), "metadata.name", "gateway's name"),
    "no hosts": (server(hosts="[]"), f"{SERVER}.hosts", "needs a host"),
    "short host": (server(hosts="[chat]"), f"{SERVER}.hosts[0]", "short name"),
    "partial wildcard": (server(hosts="['*a.com']"), f"{SERVER}.hosts[0]", "whole label"),
    "namespace of a host": (server(hosts="[a_b/c.d]"), f"{SERVER}.hosts[0]", "namespace"),
    "empty part of a host": (server(hosts="[/c.d]"), f"{SERVER}.hosts[0]", "namespace/host"),
    "no port": (document("[{hosts: ['*']}]"), f"{SERVER}.port", "required"),
    "port 0": (server("{number: 0, name: a, protocol: HTTP}"), f"{PORT}.number", "not a port"),
    "port 65536": (server("{number: 65536, name: a, protocol: HTTP}"), f"{PORT}.number", "not a port"),
    "protocol": (server("{number: 80, name: a, protocol: SPDY}"), f"{PORT}.protocol", "not a protocol"),
    "nameless port": (server("{number: 80, name: '', protocol: HTTP}"), f"{PORT}.name", "needs a name"),
    "target port": (server("{number: 80, name: a, protocol: HTTP, targetPort: 81}"), f"{PORT}.targetPort", "nothing"),
    "same name twice": (
        document(
            "[{port: {number: 80, name: a, protocol: HTTP}, hosts: ['*']}, "
            "{port: {number: 81, name: a, protocol: HTTP}, hosts: ['*']}]"
        ),
        "spec.servers[1].port.name",
        "twice",
    ),
    "bind": (server(rest="bind: localhost"), f"{SERVER}.bind", "IP address"),
    "socket with a port": (server(rest="bind: unix:///a"), f"{PORT}.number", "has no port"),
    "relative socket": (
        server("{number: 0, name: a, protocol: HTTP}", rest="bind: unix://a"),
        f"{SERVER}.bind",
        "socket's path",
    ),
    "https without tls": (server("{number: 443, name: a, protocol: HTTPS}"), TLS, "needs tls"),
    "http with certificates": (server(rest="tls: {mode: SIMPLE, credentialName: a}"), TLS, "plain-text"),
    "tcp with tls": (server("{number: 1, name: a, protocol: TCP}", rest="tls: {}"), TLS, "has no tls"),
    "simple without a certificate": (https("{mode: SIMPLE}"), f"{TLS}.serverCertificate", "SIMPLE needs"),
    "simple without a key": (https("{mode: SIMPLE, serverCertificate: /a}"), f"{TLS}.privateKey", "SIMPLE needs"),
    "mutual without a CA": (
        https("{mode: MUTUAL, serverCertificate: /a, privateKey: /b}"),
        f"{TLS}.caCertificates",
        "verify clients",
    ),
    "files and secret": (
        https("{mode: SIMPLE, serverCertificate: /a, privateKey: /b, credentialName: c}"),
        f"{TLS}.serverCertificate",
        "exclude",
    ),
    "one and several secrets": (
        https("{mode: SIMPLE, credentialName: a, credentialNames: [b]}"),
        f"{TLS}.credentialNames",
        "exclude",
    ),
    "three secrets": (https("{mode: SIMPLE, credentialNames: [a, b, c]}"), f"{TLS}.credentialNames", "more than 2"),
    "no number": (server("{name: a, protocol: HTTP}", rest="bind: unix:///a"), f"{PORT}.number", "required"),
    "several secrets and files": (
        https("{mode: SIMPLE, credentialNames: [b], tlsCertificates: [{serverCertificate: /a, privateKey: /b}]}"),
        f"{TLS}.tlsCertificates",
        "exclude",
    ),
    "list of what a secret has revoked": (
        https("{mode: PASSTHROUGH, credentialName: a, caCrl: /c}"),
        f"{TLS}.caCrl",
        "in its Secret",
    ),
    "the mesh's and own": (https("{mode: ISTIO_MUTUAL, privateKey: /a}"), f"{TLS}.privateKey", "ISTIO_MUTUAL"),
    "mode": (https("{mode: DOUBLE}"), f"{TLS}.mode", "one of its values"),
    "revocation without clients": (
        https("{mode: SIMPLE, serverCertificate: /a, privateKey: /b, caCrl: /c}"),
        f"{TLS}.caCrl",
        "verifies no clients",
    ),
}


@pytest.mark.parametrize(("text", "field", "message"), REJECTED.values(), ids=REJECTED.keys())
def test_rejected(judge, text, field, message):
    verdict = judge(text)
    assert verdict.resource is None
    assert (field, "IST0106") in [(problem.field, problem.code) for problem in verdict.errors], verdict.errors
    assert any(message in problem.message for problem in verdict.errors), verdict.errors


WARNED = {
    "old TLS": (
        https("{mode: SIMPLE, credentialName: a, minProtocolVersion: TLSV1_0}"),
        "IST0133",
        f"{TLS}.minProtocolVersion",
    ),
    "unknown cipher": (
        https("{mode: SIMPLE, credentialName: a, cipherSuites: [ROT13]}"),
        "IST0133",
        f"{TLS}.cipherSuites[0]",
    ),
    "cipher twice": (
        https("{mode: SIMPLE, credentialName: a, cipherSuites: [AES128-SHA, AES128-SHA]}"),
        "IST0133",
        f"{TLS}.cipherSuites[1]",
    ),
    "certificate of a passthrough": (https("{mode: PASSTHROUGH, credentialName: a}"), "IST0133", TLS),
    "redirect of https": (
        https("{mode: SIMPLE, credentialName: a, httpsRedirect: true}"),
        "IST0133",
        f"{TLS}.httpsRedirect",
    ),
    "udp": (server("{number: 1, name: a, protocol: UDP}"), "HR0002", f"{PORT}.protocol"),
    "long socket": (
        server("{number: 0, name: a, protocol: HTTP}", rest=f"bind: unix:///{'a' * 107}"),
        "HR0002",
        f"{SERVER}.bind",
    ),
    "endpoint": (server(rest="defaultEndpoint: 127.0.0.1:80"), "HR0002", f"{SERVER}.defaultEndpoint"),
    "ciphers of a passthrough": (
        https("{mode: AUTO_PASSTHROUGH, maxProtocolVersion: TLSV1_2}"),
        "HR0002",
        f"{TLS}.maxProtocolVersion",
    ),
    "names of clients that are not asked": (
        https("{mode: SIMPLE, credentialName: a, subjectAltNames: [a.example]}"),
        "HR0002",
        f"{TLS}.subjectAltNames",
    ),
    "curves of the mesh": (https("{mode: ISTIO_MUTUAL, ecdhCurves: [X25519]}"), "HR0002", f"{TLS}.ecdhCurves"),
    "list of revoked beside a secret": (
        https("{mode: MUTUAL, credentialName: a, caCrl: /c}"),
        "HR0002",
        f"{TLS}.caCrl",
    ),
    "secret of a CA beside files": (
        https("{mode: MUTUAL, serverCertificate: /a, privateKey: /b, caCertificates: /c, caCertCredentialName: d}"),
        "HR0002",
        f"{TLS}.caCertCredentialName",
    ),
    "CA of one of several certificates": (
        https(
            "{mode: MUTUAL, caCertificates: /c, "
            "tlsCertificates: [{serverCertificate: /a, privateKey: /b, caCertificates: /d}]}"
        ),
        "HR0002",
        f"{TLS}.tlsCertificates[0].caCertificates",
    ),
}


@pytest.mark.parametrize(("text", "code", "field"), WARNED.values(), ids=WARNED.keys())
def test_warned(judge, text, code, field):
    verdict = judge(text)
    assert (code, field) in verdict.codes
    assert verdict.errors == []
    assert verdict.resource is not None


def test_servers_are_lowered(judge):
    gateway = judge(
        document(
            "[{port: {number: 80, name: http, protocol: http}, hosts: ['*', ./A.b, ns/*.c.d]}, "
            "{port: {number: 443, name: tls, protocol: HTTPS}, hosts: [a.b], "
            "tls: {mode: SIMPLE, credentialNames: [x, y], minProtocolVersion: TLSV1_3, cipherSuites: [ROT13]}}]"
        )
    ).resource
    http, tls = gateway.servers
    assert gateway.selector == (("istio", "ingressgateway"),)
    assert (http.port, http.protocol, http.port_name) == (80, "HTTP", "http")
    assert http.hosts == (("*", "*"), ("default", "a.b"), ("ns", "*.c.d"))
    assert tls.tls.mode is ServerTlsMode.SIMPLE
    assert (tls.tls.credentials, tls.tls.min_protocol_version, tls.tls.cipher_suites) == (("x", "y"), "TLSV1_3", ())


@pytest.mark.parametrize("which", ["udp", "long socket"])
def test_a_server_for_which_no_proxy_can_listen_is_left_out(judge, which):
    assert judge(WARNED[which][0]).resource.servers == ()


@pytest.mark.parametrize(
    ("credential", "secret"),
    [
        ("x", "x"),
        ("kubernetes://x", "x"),
        ("sds://x", "x"),
        ("edge/x", "x"),
        ("kubernetes://edge/x", "x"),
        ("other/x", ""),
        ("kubernetes-gateway://other/x", "kubernetes-gateway://other/x"),
        ("builtin://", ""),
        ("edge/x/y", ""),
    ],
)
def test_a_credential_is_a_secret_of_the_proxys_namespace(credential, secret):
    assert secret_name(credential, "edge") == secret
