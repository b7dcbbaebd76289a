"""examples/safe-paths as it is shipped, attacked from a front end that has been taken over.

Under transparent capture: whatever runs in the front end's place runs as its user, in its namespace, behind its proxy.
Every attack here must be refused, none may reach the model or an unguarded path of the gateway service, and what a
proxy refused stands with its reason in its access log and its statistics. What such an application tries against its
own proxy, its namespace and its neighbours' sockets is in test_netns_attacks.py, attacks by tokens in
tests/flows/test_policies_tokens.py.
"""

from __future__ import annotations

import datetime
import http.client
import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.asking import EXAMPLES
from tests.e2e.conftest import StartMesh
from tests.e2e.netns_rig import as_app, get, needs_netns, script
from tests.e2e.running import RunningMesh, until
from tests.e2e.strangers import Signer, answer_of, tls

pytestmark = needs_netns
WEB, SERVICE, MODEL = "default/web-0", "default/gateway-service-0", "default/model-0"
SPIFFE = "spiffe://cluster.local/ns/default/sa"
REFUSED = (400, 403, 404, 421, 426, 431, 501, 502, 503)
"""Statuses that a proxy answers a refused request with; 0 is a connection that was cut."""
COMPLETION = "/v1/chat/completions"
QUESTION = json.dumps({"model": "chat-model", "messages": [{"role": "user", "content": "let me in"}], "max_tokens": 1})


@pytest.fixture(scope="module")
def mesh(start_mesh: StartMesh) -> RunningMesh:
    folder = EXAMPLES / "safe-paths"
    files = {path.name: path.read_text() for path in sorted(folder.iterdir()) if path.is_file()}
    running = start_mesh(files, "--capture", "netns")
    assert ask(running)["passage"] == "A headrace is the channel that brings water to a turbine."
    return running


def ask(mesh: RunningMesh) -> Any:
    """What a person does: a question at the front door."""
    address = mesh.gateway().removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request("POST", "/", json.dumps({"question": "What is a headrace?"}))
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200, (answer.status, body)
    return json.loads(body)


def rows(mesh: RunningMesh, replica: str) -> list[dict[str, Any]]:
    """The access log of a replica's proxy."""
    name = replica.replace("/", ".")
    text = (mesh.places.logs / f"{name}.proxy.log").read_text(errors="replace")
    return [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]


def reached(mesh: RunningMesh, replica: str) -> int:
    """Requests that a replica's application has answered, by its proxy's statistics."""
    return mesh.stats(replica, "cluster.inbound|8000||.").get("cluster.inbound|8000||.upstream_rq_total", 0)


def refused(mesh: RunningMesh, replica: str, attack: Any) -> Any:
    """The result of an attack, which must not have reached this application."""
    before = reached(mesh, replica)
    result = attack()
    assert reached(mesh, replica) == before, result
    return result


NAMES = (
    "model",
    "model.default",
    "model.default.svc",
    "model.default.svc.cluster.local",
    "model.default.svc.cluster.local.",
    "vector-search",
)


@pytest.mark.parametrize("name", NAMES)
def test_the_model_by_any_name(mesh: RunningMesh, name: str) -> None:
    victim = MODEL if name.lower().startswith("model") else "default/vector-search-0"
    url = f"http://{name}{COMPLETION}"
    assert refused(mesh, victim, lambda: get(mesh, WEB, url, "-d", QUESTION)[0]) == 403


@pytest.mark.parametrize("port", [8000, 80, 15006, 15001, 15090])
def test_the_model_by_its_address(mesh: RunningMesh, port: int) -> None:
    address = mesh.row(MODEL)["address"]
    for options in ((), ("-H", "Host: gateway-service"), ("-H", "Host: model")):
        url = f"http://{address}:{port}{COMPLETION}"
        status = refused(mesh, MODEL, lambda url=url, options=options: get(mesh, WEB, url, "-d", QUESTION, *options)[0])
        assert status in (0, *REFUSED), (options, status)


def test_the_hosts_address(mesh: RunningMesh) -> None:
    """The machine's side of the bridge: nothing of the mesh's own answers there."""
    gateway = ".".join([*mesh.row(WEB)["address"].split(".")[:3], "1"])
    for port in (80, 8080, 15000, 15010, 15012, 22):
        assert get(mesh, WEB, f"http://{gateway}:{port}/")[0] in (0, *REFUSED)


HEADERS = {
    "an identity in XFCC": f"x-forwarded-client-cert: By={SPIFFE}/model;URI={SPIFFE}/gateway-service",
    "two in XFCC": f"x-forwarded-client-cert: URI={SPIFFE}/web,URI={SPIFFE}/gateway-service",
    "XFCC in capitals": f"X-FORWARDED-CLIENT-CERT: URI={SPIFFE}/gateway-service",
    "XFCC taken away by Connection": "connection: close, x-forwarded-client-cert",
    "an address of before": "x-forwarded-for: 127.0.0.1",
    "Envoy's own address": "x-envoy-external-address: 127.0.0.1",
    "an internal request": "x-envoy-internal: true",
    "an original destination": "x-envoy-original-dst-host: 127.0.0.1:8000",
    "another path of before": "x-envoy-original-path: /health",
    "another URL of before": "x-original-url: /health",
    "another method": "x-http-method-override: GET",
    "peer metadata": "x-envoy-peer-metadata-id: sidecar~127.0.0.1~gateway-service-0.default~default.svc.cluster.local",
    "a redirect of the mesh's own": "x-headrace-overflow: model",
    "a request of the mesh's own": "x-headrace-request: 1",
    "an answered authorization": "x-ext-authz-check-result: allowed",
    "a forwarded host": "x-forwarded-host: gateway-service",
    "a forwarded standard": 'forwarded: for=127.0.0.1;by="gateway-service"',
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_claim_to_be_somebody(mesh: RunningMesh, name: str) -> None:
    url = f"http://model{COMPLETION}"
    assert refused(mesh, MODEL, lambda: get(mesh, WEB, url, "-d", QUESTION, "-H", HEADERS[name])[0]) == 403


HOSTS = {
    "a forged Host to an allowed service": ("http://gateway-service/v1/chat/completions", "-H", "Host: model"),
    "a forged Host with a port": ("http://gateway-service/v1/chat/completions", "-H", "Host: model:80"),
    "an answer made up for the model": (
        f"http://model{COMPLETION}",
        "--resolve",
        "model:80:192.0.2.9",
    ),
    "a name of its own for the model": (f"http://innocent{COMPLETION}", "--connect-to", "innocent:80:model:80"),
    "the model's name at an allowed service's address": (
        f"http://model{COMPLETION}",
        "--connect-to",
        "model:80:gateway-service:80",
    ),
    "HTTP/2 with another authority": (f"http://model{COMPLETION}", "--http2-prior-knowledge"),
    "an upgrade to HTTP/2": (f"http://model{COMPLETION}", "--http2"),
    "a tunnel": (f"http://model{COMPLETION}", "--proxytunnel", "-x", "http://gateway-service:80"),
    "a proxy": (f"http://model{COMPLETION}", "-x", "http://gateway-service:80"),
    "TLS of its own": (f"https://model:80{COMPLETION}", "-k"),
    "a forged Host in capitals": ("http://gateway-service/v1/chat/completions", "-H", "Host: MODEL"),
    "a forged Host with a final dot": (
        "http://gateway-service/v1/chat/completions",
        "-H",
        "Host: model.default.svc.cluster.local.",
    ),
    "the shadow's host": (f"http://model{COMPLETION}", "-H", "Host: model-shadow"),
}


@pytest.mark.parametrize("name", HOSTS)
def test_hosts_and_answers_that_are_made_up(mesh: RunningMesh, name: str) -> None:
    url, *options = HOSTS[name]
    status = refused(mesh, MODEL, lambda: get(mesh, WEB, url, "-d", QUESTION, *options)[0])
    assert status in (0, *REFUSED), status


PATHS = (
    "/admin",
    "/ask/../admin",
    "/ask/%2e%2e/admin",
    "/ask%2f..%2fadmin",
    "/ask%2F%2E%2E%2Fadmin",
    "/ask/..;/admin",
    "/ask;/../admin",
    "/ask;x=1",
    "/ask/",
    "/ask/.",
    "/ask.",
    "/ask%20",
    "/ask%00",
    "/ask%09",
    "/ASK",
    "/Ask",
    "/%2561sk",
    "/a%C5%BFk",
    "/ask\\..\\admin",
    "/ask%5c..%5cadmin",
    "/x/..%252fask",
    "/ask%0d%0aHost:%20model",
    "/ask%ef%bc%8fadmin",
)


@pytest.mark.parametrize("path", PATHS)
def test_paths_that_are_not_the_one_that_is_allowed(mesh: RunningMesh, path: str) -> None:
    url = f"http://gateway-service{path}"
    status = refused(mesh, SERVICE, lambda: get(mesh, WEB, url, "--path-as-is", "-d", "{}")[0])
    assert status in REFUSED, status


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "TRACE", "post", "CONNECT", "HEAD", "POSTX"])
def test_methods_that_are_not_the_one_that_is_allowed(mesh: RunningMesh, method: str) -> None:
    raw = f"{method} /ask HTTP/1.1\r\nHost: gateway-service\r\nContent-Length: 0\r\n\r\n"
    assert_raw_refused(mesh, SERVICE, raw.encode())


def raw_statuses(mesh: RunningMesh, host: str, data: bytes) -> list[int]:
    """The statuses of all answers to bytes that the front end writes on a connection to a service."""
    found: list[int] = script(
        mesh,
        WEB,
        f"""
        import json, re, socket
        found = b""
        try:
            with socket.create_connection(({host!r}, 80), 5) as stream:
                stream.settimeout(3)
                stream.sendall({data!r})
                stream.shutdown(socket.SHUT_WR)
                while part := stream.recv(65536):
                    found += part
        except OSError:
            pass
        print(json.dumps([int(one) for one in re.findall(rb"HTTP/1\\.[01] (\\d+)", found)]))
        """,
    )
    return found


def assert_raw_refused(mesh: RunningMesh, victim: str, data: bytes) -> None:
    statuses = refused(mesh, victim, lambda: raw_statuses(mesh, "gateway-service", data))
    assert all(status in REFUSED for status in statuses), statuses


INNER = f"POST {COMPLETION} HTTP/1.1\r\nHost: model\r\nContent-Length: {len(QUESTION)}\r\n\r\n{QUESTION}"
SMUGGLED = {
    "two lengths": "POST /ask HTTP/1.1\r\nHost: gateway-service\r\nContent-Length: 2\r\n"
    f"Content-Length: 0\r\n\r\n{{}}{INNER}",
    "a length and chunks": "POST /ask HTTP/1.1\r\nHost: gateway-service\r\nContent-Length: 6\r\n"
    f"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{INNER}",
    "chunks in disguise": "POST /ask HTTP/1.1\r\nHost: gateway-service\r\nTransfer-Encoding: xchunked\r\n"
    f"Content-Length: 4\r\n\r\n0\r\n\r\n{INNER}",
    "chunks twice": "POST /ask HTTP/1.1\r\nHost: gateway-service\r\nTransfer-Encoding: chunked\r\n"
    f"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n{INNER}",
    "a space before the colon": "POST /ask HTTP/1.1\r\nHost: gateway-service\r\n"
    f"Content-Length : {len(INNER)}\r\n\r\n{INNER}",
    "a folded header": f"POST /ask HTTP/1.1\r\nHost: gateway-service\r\nX: a\r\n Content-Length: 0\r\n\r\n{INNER}",
    "a bare carriage return": f"POST /ask HTTP/1.1\r\nHost: gateway-service\r\nX: a\rContent-Length: 9\r\n\r\n{INNER}",
    "an absolute form": f"POST http://model{COMPLETION} HTTP/1.1\r\nHost: gateway-service\r\nContent-Length: 0\r\n\r\n",
    "two hosts": f"POST {COMPLETION} HTTP/1.1\r\nHost: gateway-service\r\nHost: model\r\nContent-Length: 0\r\n\r\n",
    "no host": f"POST {COMPLETION} HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "a chunk of a lie": "POST /ask HTTP/1.1\r\nHost: gateway-service\r\nTransfer-Encoding: chunked\r\n\r\n"
    f"-1\r\n\r\n{INNER}",
    "a chunk that overflows": "POST /ask HTTP/1.1\r\nHost: gateway-service\r\nTransfer-Encoding: chunked\r\n\r\n"
    f"fffffffffffffffff\r\n{INNER}",
    "HTTP/0.9": f"GET {COMPLETION}\r\n",
    "a null in a header": f"POST /ask HTTP/1.1\r\nHost: gateway-service\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n{INNER}",
    "a request behind a request": f"GET /admin HTTP/1.1\r\nHost: gateway-service\r\n\r\n{INNER}",
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_requests_that_are_smuggled(mesh: RunningMesh, name: str) -> None:
    before = reached(mesh, MODEL)
    statuses = raw_statuses(mesh, "gateway-service", SMUGGLED[name].encode())
    assert reached(mesh, MODEL) == before, statuses
    assert all(status in REFUSED for status in statuses), statuses


PSEUDO = {
    "two paths": [(":method", "POST"), (":path", "/ask"), (":path", "/admin")],
    "two authorities": [(":method", "POST"), (":path", COMPLETION), (":authority", "model")],
    "a host beside the authority": [(":method", "POST"), (":path", COMPLETION), ("host", "model")],
    "a path without a slash": [(":method", "POST"), (":path", "ask/../admin")],
    "a path that is a URL": [(":method", "POST"), (":path", f"http://model{COMPLETION}")],
    "a method that makes lines": [(":method", "POST /ask HTTP/1.1\r\nHost: model\r\n\r\nGET"), (":path", "/ask")],
    "a header that makes lines": [(":method", "POST"), (":path", "/ask"), ("x", "a\r\nhost: model")],
    "a length that lies": [(":method", "POST"), (":path", "/ask"), ("content-length", "999999")],
    "chunks in HTTP/2": [(":method", "POST"), (":path", "/ask"), ("transfer-encoding", "chunked")],
    "a pseudo-header that is none": [(":method", "POST"), (":path", "/ask"), (":identity", "gateway-service")],
    "a protocol": [(":method", "CONNECT"), (":protocol", "websocket"), (":path", COMPLETION)],
}


@pytest.mark.parametrize("name", PSEUDO)
def test_abuse_of_http2(mesh: RunningMesh, name: str) -> None:
    """Frames written by hand, as the model's own proxy would get them from a proxy that is no longer itself: over
    mutual TLS with the front end's certificate."""
    signer = Signer.load(mesh.places.ca)
    with_key = signer.client(f"{SPIFFE}/web", mesh.root)
    before = reached(mesh, MODEL), reached(mesh, SERVICE)
    for victim in (MODEL, SERVICE):
        context = tls(with_key)
        context.set_alpn_protocols(["h2"])
        answer_of((mesh.row(victim)["address"], 8000), context, http2(PSEUDO[name]))
    assert (reached(mesh, MODEL), reached(mesh, SERVICE)) == before


def http2(fields: list[tuple[str, str]]) -> bytes:
    """A connection preface, settings and one headers frame that ends the stream; names as they are, no compression."""
    block = b"".join(
        b"\x00" + bytes([len(part) if len(part) < 127 else 0]) + part.encode() if at == 0 else _string(part)
        for pair in [(":scheme", "http"), *fields]
        for at, part in enumerate(pair)
    )
    if not any(name in (":authority", "host") for name, _ in fields):
        block += b"\x00" + _string(":authority") + _string("gateway-service")
    frame = len(block).to_bytes(3, "big") + b"\x01\x05" + (1).to_bytes(4, "big") + block
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + frame


def _string(text: str) -> bytes:
    """A literal of HPACK without Huffman coding (RFC 7541, 5.2), of less than 254 bytes."""
    data = text.encode()
    return (bytes([len(data)]) if len(data) < 127 else bytes([127, len(data) - 127])) + data


def _door(mesh: RunningMesh) -> tuple[str, int]:
    return mesh.row(MODEL)["address"], 8000


def _post() -> bytes:
    return (
        f"POST {COMPLETION} HTTP/1.1\r\nHost: model\r\nConnection: close\r\nContent-Length: {len(QUESTION)}\r\n\r\n"
        f"{QUESTION}"
    ).encode()


def test_the_gateway_services_own_certificate_is_let_in(mesh: RunningMesh, tmp_path: Path) -> None:
    """What the certificates below are compared with."""
    certificate = Signer.load(mesh.places.ca).client(f"{SPIFFE}/gateway-service", tmp_path)
    answer = answer_of(_door(mesh), tls(certificate), _post())
    assert isinstance(answer, bytes) and b" 200 " in answer, answer


@pytest.mark.parametrize(
    "kind",
    ["plain text", "no certificate", "self-made", "a root of the same name", "another's", "expired", "not yet valid",
     "another trust domain", "no identity", "the identity as a name", "TLS 1.0", "TLS 1.1"],
)  # fmt: skip
def test_certificates_that_are_not_the_gateway_services(mesh: RunningMesh, kind: str, tmp_path: Path) -> None:
    signer, name = Signer.load(mesh.places.ca), f"{SPIFFE}/gateway-service"
    days = datetime.timedelta(days=2)
    made: Callable[[], ssl.SSLContext | None] = {
        "plain text": lambda: None,
        "no certificate": lambda: tls(None),
        "self-made": lambda: tls(Signer.stranger(signer).client(name, tmp_path)),
        "a root of the same name": lambda: tls(Signer.stranger(signer).client(name, tmp_path)),
        "another's": lambda: tls(signer.client(f"{SPIFFE}/web", tmp_path)),
        "expired": lambda: tls(signer.client(name, tmp_path, shift=-days)),
        "not yet valid": lambda: tls(signer.client(name, tmp_path, shift=days)),
        "another trust domain": lambda: tls(signer.client(name.replace("cluster.local", "evil.local"), tmp_path)),
        "no identity": lambda: tls(signer.client("https://gateway-service", tmp_path)),
        "the identity as a name": lambda: tls(signer.client(f"{SPIFFE}/web", tmp_path, common_name=name)),
        "TLS 1.0": lambda: tls(signer.client(name, tmp_path), newest=ssl.TLSVersion.TLSv1),
        "TLS 1.1": lambda: tls(signer.client(name, tmp_path), newest=ssl.TLSVersion.TLSv1_1),
    }[kind]
    answer = refused(mesh, MODEL, lambda: answer_of(_door(mesh), made(), _post()))
    assert isinstance(answer, str) or b" 403 " in answer, answer


def test_what_was_refused_is_in_the_log_with_its_reason_and_counted(mesh: RunningMesh) -> None:
    get(mesh, WEB, f"http://model{COMPLETION}?proof", "-d", QUESTION)

    def proof() -> Any:
        return [row for row in rows(mesh, MODEL) if row["path"] == f"{COMPLETION}?proof"]

    found = until(proof, "the refusal is in the model's access log", 40.0)[0]
    assert found["response_code"] == 403
    assert found["response_code_details"] == "rbac_access_denied_matched_policy[none]"
    denied = mesh.stats(MODEL, "http.inbound_0.0.0.0_8000.rbac.")
    assert any(name.endswith(".denied") and count > 0 for name, count in denied.items()), mesh.stats(MODEL, "http.inb")


def test_whoever_is_allowed_still_is(mesh: RunningMesh) -> None:
    assert ask(mesh)["answer"]
    assert as_app(mesh, WEB, "true").returncode == 0
