"""The native module's pools in a real Envoy: picks, retries, and books that are empty whatever way a stream ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.flows.envoy_process import EnvoyProcess, wait_until
from tests.flows.module_rig import (
    PoolBootstrap,
    Upstreams,
    ask,
    chat,
    connect,
    counters,
    in_threads,
    log_lines,
    module_directory,
    needs_pools,
    pool_envoy,
    simulated,
    upstreams,
)
from tests.flows.stream_servers import DONE, TOKEN, ScriptedServer

from headrace.envoy.binary import pinned_envoy
from headrace.envoy.module import FILE_NAME, SEARCH_PATH

pytestmark = needs_pools


@pytest.fixture
def servers() -> Iterator[Upstreams]:
    with upstreams() as started:
        yield started


def models(tmp_path: Path, ports: list[int], **more: Any) -> PoolBootstrap:
    return PoolBootstrap(tmp_path / "admin.sock", {"models": ports}, log=tmp_path / "log", **more)


def nothing_in_flight(envoy: EnvoyProcess) -> None:
    wait_until(
        lambda: counters(envoy, "in_flight") and set(counters(envoy, "in_flight").values()) == {0},
        "the books are empty",
    )


def fault(port: int, **fields: Any) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        connection.request("PUT", "/faults", body=json.dumps(fields))
        assert connection.getresponse().status < 300


def test_a_server_with_a_long_prefill_is_avoided(tmp_path: Path, servers: Upstreams) -> None:
    ports = [servers.add(simulated(prefill_rate=2000.0, seed=at)) for at in range(3)]
    with pool_envoy(models(tmp_path, ports)) as envoy:
        busy = connect(envoy)
        with contextlib.closing(busy):
            headers = {"content-type": "application/json"}
            busy.request("POST", "/v1/chat/completions", chat("long prompt " * 4000, stream=True), headers)
            heavy = busy.getresponse().getheader("x-headrace-endpoint")
            answers = [ask(envoy, chat(f"short {at}")) for at in range(12)]
            assert {answer.status for answer in answers} == {200}
            assert heavy not in {answer.endpoint for answer in answers}
        nothing_in_flight(envoy)


def test_the_same_long_prompt_goes_where_it_was(tmp_path: Path, servers: Upstreams) -> None:
    ports = [servers.add(simulated(seed=at)) for at in range(4)]
    conversations = [f"conversation {at} " + f"number {at} says more. " * 300 for at in range(4)]
    with pool_envoy(models(tmp_path, ports)) as envoy:
        first = [ask(envoy, chat(text)).endpoint for text in conversations]
        for turn in range(3):
            for at, text in enumerate(conversations):
                assert ask(envoy, chat(text + "and then? " * turn)).endpoint == first[at]
        nothing_in_flight(envoy)
    last = log_lines(tmp_path / "log")[-1]
    assert last["tokens_cached"] > 0.8 * last["tokens_estimated"]


def test_sessions_and_other_policies(tmp_path: Path, servers: Upstreams) -> None:
    ports = [servers.add(simulated(seed=at)) for at in range(3)]
    policy = {"policy": "round-robin", "session_header": "x-session"}
    with pool_envoy(models(tmp_path, ports, policy=policy)) as envoy:
        assert len({ask(envoy, chat("hi")).endpoint for _ in range(3)}) == 3
        assert len({ask(envoy, chat("hi"), x_session="one").endpoint for _ in range(5)}) == 1


def test_a_retry_goes_elsewhere_and_stays_in_the_books(tmp_path: Path, servers: Upstreams) -> None:
    ports = [servers.add(simulated(seed=at)) for at in range(3)]
    for port in ports:
        fault(port, status=503, remaining=1)
    retry = {"retry_on": "5xx", "num_retries": 2}
    routes = [{"prefix": "/", "route": {"cluster": "models", "retry_policy": retry}}]
    with pool_envoy(models(tmp_path, ports, routes=routes)) as envoy:
        assert ask(envoy, chat("the same prompt " * 300)).status == 503  # all three were tried, once each
        assert ask(envoy, chat("the same prompt " * 300)).status == 200
        nothing_in_flight(envoy)
        wait_until(lambda: sum(counters(envoy, "picks").values()) == 4, "every attempt is counted")
    assert [line["attempts"] for line in log_lines(tmp_path / "log")] == [3, 1]


def test_a_dead_server_costs_a_retry_and_no_books(tmp_path: Path, servers: Upstreams) -> None:
    ports = [servers.add(simulated(seed=at)) for at in range(2)]
    retry = {"retry_on": "connect-failure,reset", "num_retries": 1}
    routes = [{"prefix": "/", "route": {"cluster": "models", "retry_policy": retry}}]
    with pool_envoy(models(tmp_path, ports, routes=routes)) as envoy:
        servers.kill(0)
        answers = [ask(envoy, chat(f"prompt {at}")) for at in range(6)]
        assert {answer.status for answer in answers} == {200}
        assert {answer.endpoint for answer in answers} == {f"127.0.0.1:{ports[1]}"}
        nothing_in_flight(envoy)


def test_the_books_are_empty_whatever_way_streams_end(tmp_path: Path, servers: Upstreams) -> None:
    port = servers.add(simulated(decode_rate=50.0))
    with pool_envoy(models(tmp_path, [port])) as envoy:
        assert ask(envoy, chat("unary")).status == 200
        assert ask(envoy, chat("stream", stream=True)).status == 200
        assert ask(envoy, b"{nonsense").status == 400
        leave_in_mid_stream(envoy)
        fault(port, cut_after=2)
        with pytest.raises(http.client.HTTPException):
            ask(envoy, chat("cut", 20, stream=True))
        assert ask(envoy, chat("cut before the answer", 20)).status == 503
        fault(port, hang=True)
        leave_before_the_answer(envoy)
        servers.kill(0)
        assert ask(envoy, chat("nobody there")).status == 503
        nothing_in_flight(envoy)
        wait_until(lambda: sum(counters(envoy, "requests").values()) == 8, "every request is reported")
        outcomes = {key.rsplit(".", 1)[1]: value for key, value in counters(envoy, "requests").items()}
        assert outcomes == {"ok": 2, "error": 1, "reset": 2, "cut": 1, "local_reply": 2}
        assert counters(envoy, "panics") == {"": 0}


def leave_in_mid_stream(envoy: EnvoyProcess) -> None:
    with contextlib.closing(connect(envoy)) as connection:
        connection.request("POST", "/v1/chat/completions", chat("left", 500, stream=True))
        assert connection.getresponse().read(200)


def leave_before_the_answer(envoy: EnvoyProcess) -> None:
    connection = connect(envoy)
    connection.request("POST", "/v1/chat/completions", chat("left early", 500))
    wait_until(lambda: envoy.stats("cluster.models.upstream_rq_active")["cluster.models.upstream_rq_active"], "sent")
    assert connection.sock
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_every_function_that_the_module_calls_is_envoy_s() -> None:
    wanted = set(
        re.findall(rb"\0(envoy_dynamic_module_callback_[a-z_]+)(?=\0)", (module_directory() / FILE_NAME).read_bytes())
    )
    assert len(wanted) > 30
    envoy = pinned_envoy().read_bytes()
    assert {name for name in wanted if b"\0" + name + b"\0" not in envoy} == set()


MALFORMED = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe\x00",
    b'{"messages": "text"}',
    b'{"messages": [{"role": "user"}], "model": 7}',
    b'{"messages": ' + b"[" * 500 + b"]" * 500,
    b'{"model": "m", "messages": [{"content": "\\',
    b'{"max_tokens": 1e999, "messages": [{"role": "user", "content": "x"}]}',
]


def test_malformed_bodies_pass_to_the_server_which_judges_them(tmp_path: Path, servers: Upstreams) -> None:
    ports = [servers.add(simulated(seed=at)) for at in range(2)]
    with pool_envoy(models(tmp_path, ports)) as envoy:
        assert {ask(envoy, body).status for body in MALFORMED} <= {200, 400}
        assert ask(envoy, chat("still there")).status == 200
        nothing_in_flight(envoy)
        assert counters(envoy, "panics") == {"": 0}


async def _mirror(request: web.Request) -> web.Response:
    body = await request.read()
    return web.json_response({"bytes": len(body), "headers": dict(request.headers)})


def mirror() -> web.Application:
    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{path:.*}", _mirror)
    return app


def test_huge_bodies_stream_through_by_load_alone(tmp_path: Path, servers: Upstreams) -> None:
    ports = [servers.add(mirror()) for _ in range(2)]
    with pool_envoy(models(tmp_path, ports)) as envoy:
        huge = chat("x" * 5_000_000)
        assert json.loads(ask(envoy, huge).body)["bytes"] == len(huge)
        with contextlib.closing(connect(envoy)) as connection:
            pieces = iter([b'{"messages": "', *[b"y" * 100_000] * 30, b'"}'])
            connection.request("POST", "/v1/chat/completions", pieces, encode_chunked=True)
            assert json.loads(connection.getresponse().read())["bytes"] == 3_000_016
        nothing_in_flight(envoy)
    declared, chunked = log_lines(tmp_path / "log")
    assert declared["tokens_estimated"] == pytest.approx(len(huge) / 4, abs=1)
    assert (chunked["outcome"], chunked["tokens_estimated"], chunked["model"]) == ("ok", 0, "")


def test_the_number_of_a_request_cannot_be_forged(tmp_path: Path, servers: Upstreams) -> None:
    port = servers.add(mirror())
    with pool_envoy(models(tmp_path, [port])) as envoy:
        forged = "00000000000000ff"
        seen = json.loads(ask(envoy, chat("x"), x_headrace_request=forged).body)["headers"]
        number = {name.lower(): value for name, value in seen.items()}["x-headrace-request"]
        assert number != forged and len(number) == 16


def test_what_is_no_pool_is_left_alone(tmp_path: Path, servers: Upstreams) -> None:
    ports = [servers.add(mirror()) for _ in range(2)]
    bootstrap = models(tmp_path, [ports[0]])
    bootstrap.routes = [
        {"prefix": "/other", "route": {"cluster": "elsewhere"}},
        {"prefix": "/direct", "direct_response": {"status": 200, "body": {"inline_string": "direct"}}},
        {"prefix": "/", "route": {"cluster": "models"}},
    ]
    given = json.loads(bootstrap.encode())
    clusters = given["static_resources"]["clusters"]
    plain = json.loads(json.dumps(clusters[0]).replace('"models"', '"elsewhere"').replace(str(ports[0]), str(ports[1])))
    del plain["load_balancing_policy"]
    clusters.append(plain)
    bootstrap.__class__ = type("Given", (PoolBootstrap,), {"encode": lambda _: json.dumps(given).encode()})
    with pool_envoy(bootstrap) as envoy:
        seen = json.loads(ask(envoy, chat("x"), "/other/v1/chat/completions").body)["headers"]
        assert not [name for name in seen if name.lower().startswith("x-headrace")]
        assert ask(envoy, chat("x"), "/direct/chat/completions").body == b"direct"
        assert ask(envoy, chat("x"), "/other/v1/chat/completions").endpoint == ""
        assert ask(envoy, b"", "/v1/models").status == 200


def test_clusters_of_one_pool_share_what_they_know(tmp_path: Path, servers: Upstreams) -> None:
    ports = [servers.add(simulated(seed=at, prefill_rate=2000.0)) for at in range(3)]
    bootstrap = PoolBootstrap(tmp_path / "admin.sock", {"all": ports, "first-two": ports[:2]}, log=tmp_path / "log")
    bootstrap.routes = [
        {"prefix": "/two", "route": {"cluster": "first-two", "prefix_rewrite": ""}},
        {"prefix": "/", "route": {"cluster": "all"}},
    ]
    with pool_envoy(bootstrap) as envoy:
        busy = connect(envoy)
        with contextlib.closing(busy):
            busy.request("POST", "/v1/chat/completions", chat("long prompt " * 4000, stream=True))
            heavy = busy.getresponse().getheader("x-headrace-endpoint")
            two = {ask(envoy, chat(f"{at}"), "/two/v1/chat/completions").endpoint for at in range(12)}
            assert two <= {f"127.0.0.1:{port}" for port in ports[:2]}
            assert heavy not in two
        nothing_in_flight(envoy)


@pytest.mark.parametrize(("policy", "least"), [("least-request", 8), ("predicted-drain", 5)])
def test_many_streams_at_once_share_the_servers(tmp_path: Path, servers: Upstreams, policy: str, least: int) -> None:
    """Streams that last long enough to be there all at once, however slowly they come: counted they are shared to the
    request; predicted drain also minds when the servers' next steps begin."""
    ports = [servers.add(simulated(slots=16, decode_rate=5.0, seed=at)) for at in range(4)]
    with pool_envoy(models(tmp_path, ports, policy={"policy": policy})) as envoy:
        answers = in_threads(32, lambda at: ask(envoy, chat(f"prompt {at}", 20, stream=True)))
        assert [answer.status for answer in answers] == [200] * 32
        spread = [[answer.endpoint for answer in answers].count(f"127.0.0.1:{port}") for port in ports]
        assert sum(spread) == 32 and min(spread) >= least, spread
        nothing_in_flight(envoy)


@pytest.mark.parametrize("policy", [{"policy": "best"}, {"unknown": 1}, {"block_tokens": "many"}, {"pool": ""}])
def test_wrong_settings_are_refused_by_envoy_with_the_reason(tmp_path: Path, policy: dict[str, Any]) -> None:
    file = tmp_path / "bootstrap.json"
    file.write_bytes(models(tmp_path, [1], policy=policy).encode())
    command = [pinned_envoy(), "--mode", "validate", "-c", file, "-l", "warn", "--disable-hot-restart"]
    done = subprocess.run(command, capture_output=True, timeout=30, env={SEARCH_PATH: str(module_directory())})
    assert done.returncode == 1
    assert b"headrace module: policy pool: " in done.stderr


def test_copies_of_a_mirror_count_while_they_last(tmp_path: Path, servers: Upstreams) -> None:
    ports = [servers.add(simulated(decode_rate=20.0, seed=at)) for at in range(2)] + [servers.add(mirror())]
    bootstrap = PoolBootstrap(tmp_path / "admin.sock", {"models": ports[:2], "quick": ports[2:]}, log=tmp_path / "log")
    bootstrap.policy = {"policy": "least-request"}
    copied = {"cluster": "quick", "request_mirror_policies": [{"cluster": "models"}]}
    bootstrap.routes = [{"prefix": "/v1/comp", "route": copied}, {"prefix": "/", "route": {"cluster": "models"}}]
    with pool_envoy(bootstrap) as envoy:
        long = json.dumps({"model": "m", "prompt": "copied", "max_tokens": 400}).encode()
        assert ask(envoy, long, "/v1/completions").status == 200
        active = "cluster.models.upstream_rq_active"
        wait_until(lambda: envoy.stats(active)[active] == 1, "the copy runs")
        picked = {ask(envoy, chat(f"prompt {at}")).endpoint for at in range(12)}
        assert envoy.stats(active)[active] == 1
        assert len(picked) == 1  # the copy has the other one


def test_a_copy_to_the_same_cluster_is_no_attempt(tmp_path: Path, servers: Upstreams) -> None:
    ports = [servers.add(simulated(seed=at)) for at in range(2)]
    action = {"cluster": "models", "request_mirror_policies": [{"cluster": "models"}]}
    with pool_envoy(models(tmp_path, ports, routes=[{"prefix": "/", "route": action}])) as envoy:
        for at in range(5):
            assert ask(envoy, chat(f"prompt {at}", stream=True)).status == 200
        nothing_in_flight(envoy)
        total = "cluster.models.upstream_rq_total"
        wait_until(lambda: envoy.stats(total + "$")[total] == 10, "all are copied")
    assert [line["attempts"] for line in log_lines(tmp_path / "log")] == [1] * 5


def test_whole_answers_hold_up_the_books_only_while_their_prompts_are_computed(
    tmp_path: Path, servers: Upstreams
) -> None:
    port = servers.add(ScriptedServer([TOKEN, DONE], *[[3.0, b"{}"]] * 4, [TOKEN, DONE]).app())
    cost = {"token_seconds": 0.0001, "pair_seconds": 0}
    with pool_envoy(models(tmp_path, [port], policy={"cost": cost})) as envoy:
        assert ask(envoy, chat("x " * 400, stream=True)).status == 200  # so that something is known of its speed
        prompts = [chat(f"{at} " + "word " * 1600) for at in range(4)]
        waiting = [threading.Thread(target=ask, args=(envoy, prompt)) for prompt in prompts]
        for thread in waiting:
            thread.start()
        active = "cluster.models.upstream_rq_active"
        wait_until(lambda: envoy.stats(active)[active] == 4, "all run")
        assert ask(envoy, chat("word " * 1600, stream=True)).status == 200
        time.sleep(1.2)  # the prompts take 0.2 s each, their answers 3 s
        assert envoy.stats(active)[active] == 4
        assert ask(envoy, chat("other " * 1600, stream=True)).status == 200
        for thread in waiting:
            thread.join(20)
        nothing_in_flight(envoy)
    _, first, second = (line["predicted_ms"] for line in log_lines(tmp_path / "log") if line["ttft_ms"] is not None)
    assert first > 500  # three or four prompts before it
    assert second < 450
