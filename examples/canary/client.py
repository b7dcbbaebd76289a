"""A client inside the mesh: streamed chat completions at a steady rate, one JSON line about each on standard output.

$RATE requests start every second, whether or not earlier ones have ended. Nothing here knows of the mesh: the openai
client finds its sidecar by HTTP_PROXY, as any program would.
"""

import asyncio
import json
import os
import signal
import time

import openai

PROMPTS = ("What does the wheel do?", "Tell me about fire.", "How is the water held back?", "Describe a morning.")


async def ask(client: openai.AsyncOpenAI, number: int) -> dict[str, object]:
    started = time.time()
    line: dict[str, object] = {"number": number, "started": started, "ok": False}
    try:
        stream = await client.chat.completions.create(
            model="any",
            messages=[{"role": "user", "content": PROMPTS[number % len(PROMPTS)]}],
            max_tokens=32,
            stream=True,
            stream_options={"include_usage": True},
        )
        text, finished = [], False
        async for chunk in stream:
            line["model"] = chunk.model
            if chunk.choices and chunk.choices[0].delta.content:
                line.setdefault("first_token", time.time() - started)
                text.append(chunk.choices[0].delta.content)
            if chunk.choices and chunk.choices[0].finish_reason:
                finished = True
            if chunk.usage:
                line["tokens"] = chunk.usage.completion_tokens
        line["ok"] = finished
        line["text"] = "".join(text)
        if not finished:
            line["error"] = "the stream ended early"
    except openai.APIStatusError as error:
        line["status"] = error.status_code
        line["error"] = str(error)[:200]
    except openai.OpenAIError as error:
        line["error"] = f"{type(error).__name__}: {error}"[:200]
    except Exception as error:
        line["error"] = f"{type(error).__name__}: {error}"[:200]
    line["seconds"] = time.time() - started
    return line


async def main() -> None:
    rate = float(os.environ.get("RATE", "2"))
    address = os.environ.get("BASE_URL", "http://ai-inference-service/v1")
    client = openai.AsyncOpenAI(base_url=address, api_key="none", max_retries=0, timeout=120.0)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    running: set[asyncio.Task[None]] = set()

    async def one(number: int) -> None:
        print(json.dumps(await ask(client, number)), flush=True)

    number, due = 0, time.monotonic()
    while not stopping.is_set():
        task = asyncio.create_task(one(number))
        running.add(task)
        task.add_done_callback(running.discard)
        number += 1
        due += 1.0 / rate
        try:
            async with asyncio.timeout(max(0.0, due - time.monotonic())):
                await stopping.wait()
        except TimeoutError:
            pass
    await asyncio.gather(*running)


asyncio.run(main())
