"""Sends chat completions all at once and says what became of them.

    python examples/burst.py URL [--count 60] [--tokens 1] [--header 'name: value']...

Needs nothing but Python. URL is what `headrace up` prints for the gateway.
"""

from __future__ import annotations

import argparse
import http.client
import json
import threading
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What became of one request: in words, how many seconds it took, and after how many to try again."""

    fate: str
    after: float
    retry_after: str


def ask(connection: http.client.HTTPConnection, body: bytes, headers: Mapping[str, str]) -> Answer:
    """One request on an open connection."""
    began = time.monotonic()
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json", **headers})
    answer = connection.getresponse()
    text = answer.read()
    after = time.monotonic() - began
    if answer.status == 200:
        redirected = answer.headers.get("x-headrace-redirected")
        fate = f"answered by {json.loads(text)['model']}" + (f", redirected ({redirected})" if redirected else "")
    else:
        fate = f"{answer.status} {answer.headers.get('x-headrace-reason', '')}"
    return Answer(fate, after, answer.headers.get("retry-after", ""))


def burst(url: str, count: int, body: bytes, headers: Mapping[str, str]) -> list[Answer]:
    """`count` requests at once, on connections that are opened before."""
    place = urllib.parse.urlsplit(url)
    connections = [http.client.HTTPConnection(place.hostname or "", place.port, timeout=60) for _ in range(count)]
    for connection in connections:
        connection.connect()
    answers: list[Answer] = []
    start = threading.Barrier(count)

    def run(connection: http.client.HTTPConnection) -> None:
        start.wait()
        answers.append(ask(connection, body, headers))
        connection.close()

    threads = [threading.Thread(target=run, args=(connection,)) for connection in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def summary(answers: list[Answer]) -> str:
    """One line for each kind of fate, the most frequent first."""
    kinds: dict[str, list[Answer]] = {}
    for answer in answers:
        kinds.setdefault(answer.fate, []).append(answer)
    lines = []
    for fate, found in sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0])):
        first, last = min(item.after for item in found), max(item.after for item in found)
        line = f"{len(found):4}  {fate}, after {first:.2f} to {last:.2f} s"
        again = sorted(int(item.retry_after) for item in found if item.retry_after)
        lines.append(line + (f"; retry-after {again[0]} to {again[-1]} s" if again else ""))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Sends chat completions all at once and says what became of them.")
    parser.add_argument("url")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--tokens", type=int, default=1, help="length of each answer")
    parser.add_argument("--header", action="append", default=[], help="'name: value', as often as you like")
    asked = parser.parse_args()
    headers = dict(line.split(": ", 1) for line in asked.header)
    body = {"messages": [{"role": "user", "content": "go"}], "max_tokens": asked.tokens}
    print(summary(burst(asked.url, asked.count, json.dumps(body).encode(), headers)))


if __name__ == "__main__":
    main()
