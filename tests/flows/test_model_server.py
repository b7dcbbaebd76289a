"""The simulated model server over real HTTP: OpenAI's shapes, a real queue, metrics, faults, determinism."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web

from headrace.inference.simulated_server import ServerSettings, SimulatedServer

FAST = ServerSettings(model="sim", slots=2, prefill_rate=1e6, decode_rate=2000.0, seed=3)


class Running:
    """A server on a free loopback port."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session
        self.openai = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        async with self.session.post(self.url + path, json=body) as answer:
            return answer.status, await answer.json()

    async def metrics(self) -> dict[str, float]:
        async with self.session.get(self.url + "/metrics") as answer:
            text = await answer.text()
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name.partition("{")[0]: float(value) for name, _, value in lines if "_bucket" not in name}


async def _serve(settings: ServerSettings) -> AsyncIterator[Running]:
    runner = web.AppRunner(SimulatedServer(settings).app(), handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as session:
        yield Running(f"http://127.0.0.1:{port}", session)
    await runner.cleanup()


@pytest.fixture
async def server() -> AsyncIterator[Running]:
    async for running in _serve(FAST):
        yield running


async def _ask(server: Running, **more: Any) -> Any:
    return await server.openai.chat.completions.create(
        model="sim", messages=[{"role": "user", "content": "one two three"}], **more
    )


async def test_the_openai_client_streams_with_usage(server: Running) -> None:
    stream = await _ask(server, stream=True, stream_options={"include_usage": True}, max_tokens=7)
    chunks = [chunk async for chunk in stream]
    words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(words) == 7
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 7
    assert chunks[-1].usage.prompt_tokens == 4  # role and three words


async def test_answers_depend_on_seed_and_prompt_only(server: Running) -> None:
    texts = [(await _ask(server, max_tokens=12)).choices[0].message.content for _ in range(2)]
    assert texts[0] == texts[1]
    assert (await _ask(server, max_tokens=12, seed=9)).choices[0].message.content != texts[0]


async def test_completions_and_models(server: Running) -> None:
    answer = await server.openai.completions.create(model="sim", prompt="a b c", max_tokens=3)
    assert len(answer.choices[0].text.split()) == 3
    assert answer.usage is not None and answer.usage.total_tokens == 6
    assert [model.id async for model in server.openai.models.list()] == ["sim"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}], "max_tokens": -1}, "max_tokens"),
        ([1, 2], "JSON object"),
    ],
)
async def test_bad_requests_are_explained(server: Running, body: Any, words: str) -> None:
    status, answer = await server.post("/v1/chat/completions", body)
    assert status == 400
    assert words in answer["error"]["message"]


async def test_a_body_nested_too_deep_is_refused(server: Running) -> None:
    body = b"[" * 100_000
    async with server.session.post(server.url + "/v1/chat/completions", data=body) as answer:
        assert answer.status == 400


async def test_requests_beyond_the_slots_wait_in_order() -> None:
    async for server in _serve(ServerSettings(slots=1, decode_rate=10.0)):
        ended: list[int] = []

        async def one(number: int, server: Running = server, ended: list[int] = ended) -> None:
            await _ask(server, max_tokens=5)
            ended.append(number)

        tasks = []
        for number in range(3):
            tasks.append(asyncio.create_task(one(number)))
            async with asyncio.timeout(20.0):
                while (await server.metrics())["vllm:num_requests_running"] + (await server.metrics())[
                    "vllm:num_requests_waiting"
                ] < number + 1:
                    pass
        busy = await server.metrics()
        assert busy["vllm:num_requests_running"] == 1
        assert busy["vllm:num_requests_waiting"] == 2
        assert busy["vllm:kv_cache_usage_perc"] == 1.0
        await asyncio.gather(*tasks)
        assert ended == [0, 1, 2]
        idle = await server.metrics()
        assert idle["vllm:num_requests_running"] == idle["vllm:num_requests_waiting"] == 0
        assert idle["vllm:generation_tokens_total"] == 15
        assert idle["vllm:request_queue_time_seconds_count"] == 3
        assert idle["vllm:request_queue_time_seconds_sum"] >= 0.4  # the last waited for ten tokens, 100 ms each


async def test_a_client_that_goes_away_frees_its_slot() -> None:
    async for server in _serve(ServerSettings(slots=1, decode_rate=1.0)):
        with pytest.raises(openai.APITimeoutError):
            await _ask(server, max_tokens=1000, stream=False, timeout=0.2)
        deadline = time.monotonic() + 5.0
        while (await server.metrics())["vllm:num_requests_running"] and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        assert (await server.metrics())["vllm:num_requests_running"] == 0


async def test_a_counted_fault_ends_by_itself(server: Running) -> None:
    async with server.session.put(server.url + "/faults", json={"status": 500, "remaining": 2}) as answer:
        assert answer.status == 200
    for _ in range(2):
        with pytest.raises(openai.InternalServerError):
            await _ask(server)
    assert (await _ask(server)).choices


async def test_a_cut_stream_breaks_the_connection(server: Running) -> None:
    async with server.session.put(server.url + "/faults", json={"cut_after": 2}) as answer:
        assert answer.status == 200
    stream = await _ask(server, stream=True, max_tokens=10)
    with pytest.raises(openai.APIConnectionError):
        _ = [chunk async for chunk in stream]


async def test_unknown_faults_are_refused(server: Running) -> None:
    for body in ({"stats": 500}, {"status": "500"}, [1], {"hang": 1}):
        async with server.session.put(server.url + "/faults", data=json.dumps(body)) as answer:
            assert answer.status == 400


async def test_health_follows_the_fault(server: Running) -> None:
    for unhealthy, status in ((True, 503), (False, 200)):
        async with server.session.put(server.url + "/faults", json={"unhealthy": unhealthy}) as answer:
            assert answer.status == 200
        async with server.session.get(server.url + "/health") as answer:
            assert answer.status == status
