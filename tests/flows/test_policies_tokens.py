"""RequestAuthentications in a real Envoy: which tokens are believed, and what becomes of their claims."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiohttp import web
from tests.flows.policy_rig import Guarded, guarded
from tests.flows.test_translated_origination import Authority
from tests.flows.token_rig import ISSUER, Ec, Rsa, by_secret, claims, encoded, head, key_set, tampered, unsigned

OTHER = "other-issuer"
TOKENS = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens}
spec:
  selector: {matchLabels: {app: chat}}
  jwtRules: [%s]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: with-token}
spec:
  action: DENY
  rules:
  - {from: [{source: {notRequestPrincipals: ["*"]}}], to: [{operation: {paths: [/demanded]}}]}
  - {to: [{operation: {paths: [/staff]}}], when: [{key: "request.auth.claims[groups]", notValues: [staff]}]}
  - {to: [{operation: {paths: [/deep]}}], when: [{key: "request.auth.claims[realm][level]", notValues: [high]}]}
  - {to: [{operation: {paths: [/me]}}], from: [{source: {notRequestPrincipals: ["https://issuer.example/me"]}}]}
  - {to: [{operation: {paths: [/scope]}}], when: [{key: "request.auth.claims[scope]", notValues: [write]}]}
"""


def rule(**fields: Any) -> str:
    return json.dumps({"issuer": ISSUER, **fields})


async def asked(chat: Guarded, token: str, path: str = "/") -> int:
    return (await chat.ask(path, headers={"authorization": f"Bearer {token}"})).status


async def test_right_tokens_pass_and_every_wrong_one_is_refused() -> None:
    rsa, ec, strange = Rsa(), Ec(), Rsa()
    async with guarded(TOKENS % rule(jwks=key_set(rsa, ec), audiences=["chat", "models"])) as chat:
        assert (await chat.ask()).status == 200, "no token is no refusal"
        assert (await chat.ask("/demanded")).status == 403, "but a policy can demand one"
        for right in (rsa.token(claims()), ec.token(claims(aud=["x", "models"])), rsa.token(claims(), kid="rsa")):
            assert await asked(chat, right, "/demanded") == 200
        good = rsa.token(claims())
        wrong = {
            "none": unsigned(claims()),
            "None": unsigned(claims(), "None"),
            "no signature": good.rpartition(".")[0] + ".",
            "two parts": good.rpartition(".")[0],
            "tampered": tampered(good, sub="you"),
            "another's key": strange.token(claims()),
            "expired": rsa.token(claims(exp=1_600_000_000)),
            "not yet": rsa.token(claims(nbf=4_000_000_000)),
            "wrong audience": rsa.token(claims(aud="others")),
            "no audience": rsa.token({name: value for name, value in claims().items() if name != "aud"}),
            "wrong issuer": rsa.token(claims(iss="https://evil.example")),
            "public key as secret": by_secret(claims(), rsa.pem(), kid="rsa"),
            "modulus as secret": by_secret(claims(), rsa.jwk["n"].encode()),
            "key set as secret": by_secret(claims(), key_set(rsa, ec).encode(), kid="rsa"),
            "another algorithm's name": rsa.token(claims(), alg="ES256"),
            "HS256 over an RSA signature": rsa.token(claims(), alg="HS256"),
            "unknown kid": rsa.token(claims(), kid="nobody"),
            "own key inside": strange.token(claims(), jwk=strange.jwk),
            "no JSON": f"{encoded(b'{')}.{encoded(b'{}')}.{encoded(b'x')}",
            "empty signature of none": head({"alg": ""}, claims()) + ".",
            "nonsense": "a.b.c",
        }
        for name, token in wrong.items():
            status = 403 if "audience" in name else 401  # Envoy's: it is genuine, but not for this workload
            assert await asked(chat, token) == status, name
            assert await asked(chat, token, "/demanded") == status, name
        assert (await chat.ask(headers={"authorization": f"Basic {good}"})).status == 200, "another scheme is no token"


async def test_policies_look_at_claims() -> None:
    rsa = Rsa()
    async with guarded(TOKENS % rule(jwks=key_set(rsa))) as chat:
        cases: list[tuple[str, dict[str, Any], int]] = [
            ("/staff", {"groups": ["dev", "staff"]}, 200),
            ("/staff", {"groups": "staff"}, 200),
            ("/staff", {"groups": ["dev"]}, 403),
            ("/staff", {}, 403),
            ("/deep", {"realm": {"level": "high"}}, 200),
            ("/deep", {"realm": {"level": "low"}}, 403),
            ("/deep", {"realm.level": "high"}, 403),
            ("/me", {}, 200),
            ("/me", {"sub": "you"}, 403),
            ("/scope", {"scope": "read write"}, 200),
            ("/scope", {"scope": "read"}, 403),
        ]
        for path, more, status in cases:
            assert await asked(chat, rsa.token(claims(**more)), path) == status, (path, more)
        assert (await chat.ask("/staff", headers={"groups": "staff"})).status == 403


async def test_tokens_come_from_where_the_rule_says_and_claims_go_where_it_says() -> None:
    rsa = Rsa()
    places = rule(
        jwks=key_set(rsa),
        fromHeaders=[{"name": "x-token", "prefix": "Token "}],
        fromParams=["token"],
        fromCookies=["session"],
        outputPayloadToHeader="x-payload",
        outputClaimToHeaders=[{"header": "x-who", "claim": "sub"}, {"header": "x-org", "claim": "org.name"}],
    )
    async with guarded(TOKENS % places) as chat:
        token = rsa.token(claims(org={"name": "acme"}))
        assert await asked(chat, token, "/demanded") == 403, "not looked for in authorization"
        assert (await chat.ask(f"/demanded?token={token}")).status == 200
        assert (await chat.ask("/demanded", headers={"cookie": f"a=b; session={token}"})).status == 200
        answer = await chat.ask("/demanded", headers={"x-token": f"Token {token}", "x-who": "forged"})
        seen = answer.seen["headers"]
        assert (seen["x-who"], seen["x-org"]) == ("me", "acme")
        payload = seen["x-payload"]
        assert json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"] == "me"
        assert "x-token" not in seen, "a token that is not forwarded does not reach the application"
        assert (await chat.ask("/", headers={"x-token": f"Token {tampered(token, sub='you')}"})).status == 401
        forged = (await chat.ask("/", headers={"x-who": "me", "x-org": "acme", "x-payload": "x"})).seen["headers"]
        assert not {"x-who", "x-org", "x-payload"} & set(forged), "nobody but the filter writes them"
    async with guarded(TOKENS % rule(jwks=key_set(rsa), forwardOriginalToken=True)) as chat:
        answer = await chat.ask(headers={"authorization": f"Bearer {rsa.token(claims())}"})
        assert answer.seen["headers"]["authorization"].startswith("Bearer ")


async def test_tokens_that_are_required() -> None:
    one, two = Rsa("one"), Ec("two")
    places = {"fromHeaders": [{"name": "x-other"}]}
    other = json.dumps({"issuer": OTHER, "jwks": key_set(two), "presence": "REQUIRED", **places})
    async with guarded(TOKENS % f"{rule(jwks=key_set(one))}, {other}") as chat:
        mine = {"authorization": f"Bearer {one.token(claims())}"}
        theirs = {"x-other": two.token(claims(iss=OTHER))}
        assert (await chat.ask()).status == 401
        assert (await chat.ask(headers=mine)).status == 401, "another rule's token does not stand in"
        assert (await chat.ask(headers=theirs)).status == 200, "the other rule's is optional"
        assert (await chat.ask(headers={**mine, **theirs})).status == 200
        wrong = {"authorization": f"Bearer {two.token(claims())}"}
        assert (await chat.ask(headers={**wrong, **theirs})).status == 401


async def test_several_issuers() -> None:
    one, two = Rsa("one"), Ec("two")
    rules = f"{rule(jwks=key_set(one))}, {json.dumps({'issuer': OTHER, 'jwks': key_set(two)})}"
    async with guarded(TOKENS % rules) as chat:
        assert await asked(chat, one.token(claims()), "/demanded") == 200
        assert await asked(chat, two.token(claims(iss=OTHER)), "/demanded") == 200
        assert await asked(chat, one.token(claims(iss=OTHER))) == 401, "each issuer has its own keys"
        assert await asked(chat, two.token(claims())) == 401
        assert (await chat.ask()).status == 200


async def test_a_rule_without_keys_believes_nobody(tmp_path: Path) -> None:
    async with guarded(TOKENS % rule()) as chat:
        assert await asked(chat, Rsa("headrace-nobody").token(claims())) == 401
        assert await asked(chat, Ec("headrace-nobody").token(claims())) == 401
        assert await asked(chat, unsigned(claims())) == 401
        assert (await chat.ask()).status == 200


async def test_keys_from_a_file(tmp_path: Path) -> None:
    rsa = Rsa()
    file = tmp_path / "keys.json"
    file.write_text(key_set(rsa))
    annotated = TOKENS.replace("{name: tokens}", f'{{name: tokens, annotations: {{headrace.dev/jwks-file: "{file}"}}}}')
    async with guarded(annotated % rule()) as chat:
        assert await asked(chat, rsa.token(claims()), "/demanded") == 200
        assert await asked(chat, Rsa().token(claims())) == 401


@contextlib.asynccontextmanager
async def key_server(body: list[str], tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[str]]]:
    """An HTTP server of key sets: the port, and the paths that were asked for."""
    asked_for: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked_for.append(request.path)
        return web.Response(text=body[0], content_type="application/json")

    app = web.Application()
    app.router.add_get("/keys", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    try:
        yield port, asked_for
    finally:
        await runner.cleanup()


async def test_keys_are_fetched_before_any_request_and_not_by_one() -> None:
    rsa = Rsa()
    async with (
        key_server([key_set(rsa)]) as (port, asked_for),
        guarded(TOKENS % rule(jwksUri=f"http://127.0.0.1:{port}/keys")) as chat,
    ):
        async with asyncio.timeout(30):
            while not asked_for:
                await asyncio.sleep(0.05)
        async with asyncio.timeout(30):
            while await asked(chat, rsa.token(claims()), "/demanded") != 200:
                await asyncio.sleep(0.1)
        before = len(asked_for)
        for _ in range(5):
            assert await asked(chat, rsa.token(claims())) == 200
            assert await asked(chat, Rsa("unknown").token(claims())) == 401
        assert len(asked_for) == before


async def test_without_the_key_server_tokens_are_refused_and_requests_without_one_pass() -> None:
    async with guarded(TOKENS % rule(jwksUri="http://127.0.0.1:1/keys", timeout="1s")) as chat:
        assert await asked(chat, Rsa().token(claims())) == 401
        assert (await chat.ask()).status == 200


KEYS = """
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: keys}
spec:
  hosts: [keys.example]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: %PORT%, name: http, protocol: HTTP}]
  endpoints: [{address: 127.0.0.1}]
"""
ORIGINATION = """
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: keys}
spec:
  host: keys.example
  trafficPolicy: {tls: {mode: SIMPLE, caCertificates: %CA%, sni: keys.example, subjectAltNames: [%NAME%]}}
"""


async def believed(chat: Guarded, token: str) -> bool:
    """Whether the token is accepted, after a while at least."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            while await asked(chat, token, "/demanded") != 200:
                await asyncio.sleep(0.1)
            return True
    return False


async def test_a_service_of_the_mesh_serves_keys() -> None:
    rsa = Rsa()
    async with key_server([key_set(rsa)]) as (port, _):
        text = TOKENS % rule(jwksUri=f"http://keys.example:{port}/keys") + KEYS.replace("%PORT%", str(port))
        async with guarded(text) as chat:
            assert await believed(chat, rsa.token(claims()))
            assert await asked(chat, Rsa().token(claims())) == 401


async def test_keys_over_tls_come_only_from_the_right_server(tmp_path: Path) -> None:
    rsa, authority = Rsa(), Authority(tmp_path, "root")
    certificate, key = authority.issue("keys", "keys.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    async with key_server([key_set(rsa)], context) as (port, asked_for):
        entry = KEYS.replace("%PORT%", str(port))
        text = TOKENS % rule(jwksUri=f"https://keys.example:{port}/keys") + entry
        originated = ORIGINATION.replace("%CA%", str(authority.path))
        async with guarded(text + originated.replace("%NAME%", "keys.example")) as chat:
            assert await believed(chat, rsa.token(claims()))
        asked_for.clear()
        async with guarded(text + originated.replace("%NAME%", "other.example")) as chat:
            assert not await believed(chat, rsa.token(claims()))
        outside = TOKENS % rule(jwksUri=f"https://127.0.0.1:{port}/keys")
        async with guarded(outside) as chat:
            assert not await believed(chat, rsa.token(claims())), "its root is none that the host trusts"
        assert asked_for == []
