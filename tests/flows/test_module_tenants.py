"""Tenants in a real Envoy: told apart by a header, a client certificate or a claim of a verified token; their shares,
their bounds, and that nobody passes for another."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from tests.flows.admission_rig import Asked, GatedBootstrap, HeldServer, Line, begin, count, gated, opened
from tests.flows.envoy_process import EnvoyProcess, wait_until
from tests.flows.module_rig import Answer, Upstreams, ask, chat, log_lines, needs_pools, pool_envoy, upstreams

from headrace.floor.clock import SystemClock
from headrace.identity.attest import check_request
from headrace.identity.authority import Authority
from headrace.identity.keys import PrivateKey
from headrace.model.identity import Identity

pytestmark = needs_pools

_EXTENSIONS = "type.googleapis.com/envoy.extensions"
ONE_PLACE = {"concurrency_per_endpoint": 1, "queue": {"requests": 50, "seconds": 60}, "token_cost": 0}
Work = Callable[[bytes], Answer]


@pytest.fixture
def servers() -> Iterator[Upstreams]:
    with upstreams() as started:
        yield started


def order(tmp_path: Path) -> list[str]:
    """The names of the requests that were served, in the order of their ends."""
    return [line["model"] for line in log_lines(tmp_path / "log") if line["status"] == 200]


def served(bootstrap: GatedBootstrap, server: HeldServer, come: list[tuple[str, Work | None, dict[str, str]]]) -> None:
    """One runs; the others come one after the other, and all wait; then the server answers them one by one."""
    with pool_envoy(bootstrap) as envoy, opened(server):
        line = Line(envoy)
        line.join("first", 0)
        wait_until(lambda: server.running == 1, "one runs")
        for at, (name, work, headers) in enumerate(come):
            line.join(name, at + 1, work, **headers)
        server.gate.set()
        assert line.statuses() == [200] * (len(come) + 1)


def test_tenants_by_header_take_turns_by_their_weights(tmp_path: Path, servers: Upstreams) -> None:
    server = HeldServer()
    admission = {**ONE_PLACE, "tenant": {"header": "x-tenant"}, "weights": {"gold": 2}}
    come: list[tuple[str, Work | None, dict[str, str]]] = [
        *((f"a{at}", None, {"x_tenant": "iron"}) for at in range(4)),
        *((f"b{at}", None, {"x_tenant": "gold"}) for at in range(4)),
    ]
    served(gated(tmp_path, [servers.add(server.app())], admission), server, come)
    # Tags of iron: 1, 2, 3, 4; of gold: 1/2, 1, 3/2, 2.
    assert order(tmp_path) == ["first", "b0", "a0", "b1", "b2", "a1", "b3", "a2", "a3"]


def test_a_share_counts_tokens_unless_told_otherwise(tmp_path: Path, servers: Upstreams) -> None:
    server = HeldServer()
    admission = {**ONE_PLACE, "tenant_header": "x-tenant", "token_cost": 1}
    with pool_envoy(gated(tmp_path, [servers.add(server.app())], admission)) as envoy, opened(server):
        line = Line(envoy)
        line.join("first", 0)
        wait_until(lambda: server.running == 1, "one runs")
        for at, (tenant, words) in enumerate([("long", 2000), ("long", 2000), *[("short", 1)] * 4]):
            body = chat("word " * words, model=f"{tenant}{at}")
            line.join("", at + 1, lambda _, body=body, tenant=tenant: ask(envoy, body, x_tenant=tenant))
        server.gate.set()
        assert line.statuses() == [200] * 7
    # A long prompt costs 2756, a short one 257: all of the short ones go first.
    assert order(tmp_path) == ["first", "short2", "short3", "short4", "short5", "long0", "long1"]


def test_one_tenant_s_bounds_are_not_another_s(tmp_path: Path, servers: Upstreams) -> None:
    server = HeldServer()
    admission = {**ONE_PLACE, "tenant": {"header": "x-tenant"}, "tenant_limits": {"requests": 2, "tokens": 100}}
    with pool_envoy(gated(tmp_path, [servers.add(server.app())], admission)) as envoy, opened(server):
        line = Line(envoy)
        line.join("first", 0)
        wait_until(lambda: server.running == 1, "one runs")
        line.join("a", 1, x_tenant="a")
        line.join("a", 2, x_tenant="a")
        for _ in range(3):
            refused = ask(envoy, chat("x"), x_tenant="a")
            assert (refused.status, refused.headers["x-headrace-reason"]) == (429, "tenant-full")
            assert int(refused.headers["retry-after"]) >= 1
        line.join("b", 3, x_tenant="b")
        long = ask(envoy, chat("word " * 100), x_tenant="b")  # 125 tokens
        assert (long.status, long.headers["x-headrace-reason"]) == (429, "tenant-full")
        line.join("b", 4, x_tenant="b")
        server.gate.set()
        assert line.statuses() == [200] * 5


def test_a_starving_request_goes_before_higher_priorities(tmp_path: Path, servers: Upstreams) -> None:
    server = HeldServer()
    admission = {
        **ONE_PLACE,
        "priority_header": "x-priority",
        "priorities": ["high", "low"],
        "starvation_seconds": 0.5,
    }
    with pool_envoy(gated(tmp_path, [servers.add(server.app())], admission)) as envoy, opened(server):
        line = Line(envoy)
        line.join("first", 0)
        wait_until(lambda: server.running == 1, "one runs")
        line.join("low", 1, x_priority="low")
        starts = time.monotonic()
        line.join("high0", 2, x_priority="high")
        wait_until(lambda: time.monotonic() - starts > 0.6, "it starves")
        line.join("high1", 3, x_priority="high")
        server.gate.set()
        assert line.statuses() == [200] * 4
    # Once it starves it counts as of the highest priority, on which it came before both.
    assert order(tmp_path) == ["first", "low", "high0", "high1"]


class Clients:
    """A certificate authority, a listener that asks for certificates, and clients with certificates and without."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority.open(directory / "ca", "cluster.local", SystemClock())
        self.root = directory / "root.pem"
        self.root.write_text(self.authority.bundle_pem)
        self.chain, self.key = self._pair(Identity("cluster.local", "mesh", "gateway"))

    def _pair(self, identity: Identity) -> tuple[Path, Path]:
        key = PrivateKey.generate()
        leaf = self.authority.sign(check_request(key.csr(identity), identity), identity, 600.0)
        chain = self.directory / f"{identity.service_account}.pem"
        chain.write_text(leaf.chain_pem)
        secret = chain.with_suffix(".key")
        secret.write_bytes(key.reveal_pem())
        return chain, secret

    def socket(self) -> dict[str, Any]:
        """A listener's transport socket: clients may show a certificate, of this authority alone."""
        pair = {"certificate_chain": {"filename": str(self.chain)}, "private_key": {"filename": str(self.key)}}
        common = {
            "tls_certificates": [pair],
            "validation_context": {"trusted_ca": {"filename": str(self.root)}},
        }
        config = {
            "@type": f"{_EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": common,
        }
        return {"name": "envoy.transport_sockets.tls", "typed_config": config}

    def work(self, envoy: EnvoyProcess, name: str, **headers: str) -> Work:
        """Requests of the client whose service account has this name ('': without certificate)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self.root)
        if name:
            context.load_cert_chain(*self._pair(Identity("cluster.local", "teams", name)))

        def work(body: bytes) -> Answer:
            address = envoy.listener_address("front")
            connection = http.client.HTTPSConnection(*address, timeout=30, context=context)
            begun = time.monotonic()
            sent = {"content-type": "application/json", **headers}
            connection.request("POST", "/v1/chat/completions", body, sent)
            response = connection.getresponse()
            content = response.read()
            connection.close()
            found = {key.lower(): value for key, value in response.getheaders()}
            return Answer(response.status, found, content, time.monotonic() - begun)

        return work


def refusals(asked: list[Asked]) -> Counter[str]:
    """Answers by their reason ('200' for those that were served)."""
    found = (item.answer() for item in asked)
    return Counter(answer.headers.get("x-headrace-reason", str(answer.status)) for answer in found)


def each_has_a_queue(envoy: EnvoyProcess, server: HeldServer, works: list[Work]) -> None:
    """While one of the first runs, each tenant may have one waiting, and its second is refused."""
    begun = [begin(lambda: works[0](chat("runs")))]
    wait_until(lambda: server.running == 1, "one runs")
    for at, work in enumerate(works):
        begun.append(begin(lambda work=work: work(chat("waits"))))
        wait_until(lambda at=at: count(envoy, "waiting") == at + 1, f"{at + 1} wait", 30)
    second = [begin(lambda work=work: work(chat("too many"))) for work in works]
    assert refusals(second) == {"tenant-full": len(works)}
    server.gate.set()
    assert refusals(begun) == {"200": len(works) + 1}


ONE_EACH = {**ONE_PLACE, "tenant_limits": {"requests": 1}}


def test_tenants_by_client_certificate(tmp_path: Path, servers: Upstreams) -> None:
    server, clients = HeldServer(), Clients(tmp_path)
    admission = {**ONE_EACH, "tenant": {"identity": True}}
    bootstrap = gated(tmp_path, [servers.add(server.app())], admission, socket=clients.socket())
    with pool_envoy(bootstrap) as envoy, opened(server):
        works = [clients.work(envoy, name) for name in ("red", "blue", "")]
        each_has_a_queue(envoy, server, works)


def test_nobody_passes_for_another_client(tmp_path: Path, servers: Upstreams) -> None:
    server, clients = HeldServer(), Clients(tmp_path)
    admission = {**ONE_EACH, "tenant": {"identity": True}}
    bootstrap = gated(tmp_path, [servers.add(server.app())], admission, socket=clients.socket())
    forged = {
        "x-forwarded-client-cert": "By=x;URI=spiffe://cluster.local/ns/teams/sa/red",
        "x-tenant": "spiffe://cluster.local/ns/teams/sa/red",
        "x-headrace-tenant": "spiffe://cluster.local/ns/teams/sa/red",
    }
    with pool_envoy(bootstrap) as envoy, opened(server):
        honest, red = clients.work(envoy, "blue"), clients.work(envoy, "red")
        liar = clients.work(envoy, "blue", **forged)
        begun = [begin(lambda: honest(chat("runs")))]
        wait_until(lambda: server.running == 1, "one runs")
        begun.append(begin(lambda: honest(chat("waits"))))
        wait_until(lambda: count(envoy, "waiting") == 1, "one waits")
        assert refusals([begin(lambda: liar(chat("x")))]) == {"tenant-full": 1}  # it is blue all the same
        begun.append(begin(lambda: red(chat("waits"))))
        wait_until(lambda: count(envoy, "waiting") == 2, "and red has its own place")
        server.gate.set()
        assert refusals(begun) == {"200": 3}


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Signs tokens (ES256), and the filters by which Envoy verifies them."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())

    def token(self, **claims: Any) -> str:
        """A signed token."""
        head = _encoded(json.dumps({"alg": "ES256", "typ": "JWT", "kid": "k"}).encode())
        body = _encoded(json.dumps({"iss": "https://issuer.test", "exp": int(time.time()) + 600, **claims}).encode())
        signature = self.key.sign(f"{head}.{body}".encode(), ec.ECDSA(hashes.SHA256()))
        numbers = b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(signature))
        return f"{head}.{body}.{_encoded(numbers)}"

    def filters(self) -> list[dict[str, Any]]:
        """What stands before the pool's filter: as docs/reference/module-config.md says."""
        public = self.key.public_key().public_numbers()
        x, y = (_encoded(number.to_bytes(32, "big")) for number in (public.x, public.y))
        keys = {"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "k", "x": x, "y": y}]}
        provider = {
            "issuer": "https://issuer.test",
            "local_jwks": {"inline_string": json.dumps(keys)},
            "payload_in_metadata": "headrace.claims",
        }
        either = {"requires_any": {"requirements": [{"provider_name": "issuer"}, {"allow_missing": {}}]}}
        verify = {
            "@type": f"{_EXTENSIONS}.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": {"issuer": provider},
            "rules": [{"match": {"prefix": "/"}, "requires": either}],
        }
        claims = "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:headrace.claims)%"
        state = {
            "object_key": "headrace.claims",
            "factory_key": "envoy.string",
            "skip_if_empty": True,
            "format_string": {"omit_empty_values": True, "text_format_source": {"inline_string": claims}},
        }
        keep = {"@type": f"{_EXTENSIONS}.filters.http.set_filter_state.v3.Config", "on_request_headers": [state]}
        return [
            {"name": "envoy.filters.http.jwt_authn", "typed_config": verify},
            {"name": "headrace.claims", "typed_config": keep},
        ]


def bearer(envoy: EnvoyProcess, token: str, **headers: str) -> Work:
    """Requests with this token ('': none)."""
    authorization = {"authorization": f"Bearer {token}"} if token else {}
    return lambda body: ask(envoy, body, **authorization, **headers)


def test_tenants_by_claim_of_a_verified_token(tmp_path: Path, servers: Upstreams) -> None:
    server, issuer = HeldServer(), Issuer()
    admission = {**ONE_EACH, "tenant": {"claim": "org.team"}}
    bootstrap = gated(tmp_path, [servers.add(server.app())], admission, before=issuer.filters())
    tokens = [issuer.token(org={"team": "red"}), issuer.token(org={"team": 'm\u00fcller "x"'}), ""]
    with pool_envoy(bootstrap) as envoy, opened(server):
        each_has_a_queue(envoy, server, [bearer(envoy, token) for token in tokens])


def test_nobody_passes_for_another_claim(tmp_path: Path, servers: Upstreams) -> None:
    server, issuer, other = HeldServer(), Issuer(), Issuer()
    admission = {**ONE_EACH, "tenant": {"claim": "team"}}
    bootstrap = gated(tmp_path, [servers.add(server.app())], admission, before=issuer.filters())
    with pool_envoy(bootstrap) as envoy, opened(server):
        nobody = bearer(envoy, "")
        begun = [begin(lambda: nobody(chat("runs")))]
        wait_until(lambda: server.running == 1, "one runs")
        begun.append(begin(lambda: nobody(chat("waits"))))
        wait_until(lambda: count(envoy, "waiting") == 1, "one waits")
        forged = bearer(envoy, other.token(team="red"))
        assert refusals([begin(lambda: forged(chat("x")))]) == {"401": 1}
        claims = json.dumps({"team": "red"})
        headers = {"headrace.claims": claims, "x_headrace_claims": claims, "team": "red", "x_tenant": "red"}
        without_claim = bearer(envoy, issuer.token(sub="x", team=["red"]))
        for work in (bearer(envoy, "", **headers), without_claim):  # both anonymous
            assert refusals([begin(lambda work=work: work(chat("x")))]) == {"tenant-full": 1}
        begun.append(begin(lambda: bearer(envoy, issuer.token(team="red"))(chat("waits"))))
        wait_until(lambda: count(envoy, "waiting") == 2, "and red has its own place")
        server.gate.set()
        assert refusals(begun) == {"200": 3}
