"""Workloads from files: who asks when, how long prompt and answer are, and which beginnings prompts share.

Called by `headrace simulate` and benchmarks/simulate.py. Reads Mooncake-style JSONL, Azure-style CSV, CSVs of lengths
and the distributions of inference-perf's workload catalog (JSON); the content decides which it is, not the name.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BLOCK_TOKENS = 512
"""Tokens of one block of a prompt, as published traces hash them."""
LONGEST_LINE = 4 * 1024 * 1024
"""Characters of one line read at most."""
MOST_REQUESTS = 5_000_000
_MOST_TOKENS = 10_000_000
_HASH_MASK = (1 << 64) - 1


class WorkloadError(Exception):
    """A file is not a workload: the message names file, line and what is wrong."""


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request: `at` in seconds from the first one, lengths in tokens, chained hashes of the prompt's blocks."""

    at: float
    prompt: int
    answer: int
    blocks: tuple[int, ...] = ()
    line: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests of a file, sorted by time; `timed`: the file says when they arrive (else `at` is 0 throughout)."""

    path: str
    requests: tuple[TraceRequest, ...]
    timed: bool


def read_trace(path: Path, limit: int | None = None) -> Trace | dict[str, Any]:
    """The trace in `path` (at most `limit` requests), or the JSON object of distributions; WorkloadError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline(LONGEST_LINE)
            file.seek(0)
            if first.lstrip()[:1] == "{":
                return _read_json(path, first, file, limit)
            return _read_csv(path, file, limit)
    except OSError as error:
        raise WorkloadError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise WorkloadError(f"{path}: not text in UTF-8 ({error.reason} at byte {error.start})") from error


def _read_json(path: Path, first: str, file: Iterable[str], limit: int | None) -> Trace | dict[str, Any]:
    try:
        json.loads(first)
    except ValueError:
        text = "".join(file)
        try:
            document = json.loads(text)
        except ValueError as error:
            line = getattr(error, "lineno", 1)
            raise WorkloadError(f"{path}:{line}: neither JSON lines nor a JSON document ({error})") from None
        return _distributions(path, document)
    lines = list(_lines(file, limit))
    if len(lines) == 1:
        document = json.loads(first)
        if isinstance(document, dict) and "input_sequence_length" in document:
            return _distributions(path, document)
    return _trace(path, [_mooncake(path, number, line) for number, line in lines], timed=True)


def _lines(file: Iterable[str], limit: int | None) -> Iterator[tuple[int, str]]:
    found = 0
    for number, line in enumerate(file, 1):
        if line.strip():
            if found == (MOST_REQUESTS if limit is None else limit):
                return
            found += 1
            yield number, line


def _distributions(path: Path, document: object) -> dict[str, Any]:
    if not isinstance(document, dict) or "input_sequence_length" not in document:
        raise WorkloadError(f"{path}:1: no workload: a JSON document of distributions has input_sequence_length")
    return document


def _mooncake(path: Path, number: int, line: str) -> TraceRequest:
    where = f"{path}:{number}"
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        raise WorkloadError(f"{where}: not a JSON object") from None
    if not isinstance(data, dict):
        raise WorkloadError(f"{where}: not a JSON object")
    at = data.get("timestamp")
    if not isinstance(at, int | float) or isinstance(at, bool) or not 0 <= at < 1e15:
        raise WorkloadError(f"{where}: timestamp must be milliseconds from 0 on, not {at!r:.40}")
    hashes = data.get("hash_ids", [])
    if not isinstance(hashes, list) or not all(isinstance(one, int) and not isinstance(one, bool) for one in hashes):
        raise WorkloadError(f"{where}: hash_ids must be a list of whole numbers")
    prompt = _tokens(data.get("input_length"), "input_length", where)
    return TraceRequest(
        at=at / 1000.0,
        prompt=prompt,
        answer=_tokens(data.get("output_length"), "output_length", where),
        blocks=tuple(one & _HASH_MASK for one in hashes[: prompt // BLOCK_TOKENS]),
        line=number,
    )


def _tokens(value: object, name: str, where: str) -> int:
    """A count of tokens; 0 counts as 1, since an engine computes and makes at least one."""
    if isinstance(value, str):
        value = int(value) if value.strip().isascii() and value.strip().isdigit() else value
    if value is None:
        raise WorkloadError(f"{where}: {name} is missing")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST_TOKENS:
        message = f"{name} must be a whole number of tokens from 0 to {_MOST_TOKENS}, not {value!r:.40}"
        raise WorkloadError(f"{where}: {message}")
    return max(1, value)


def _read_csv(path: Path, file: Iterable[str], limit: int | None) -> Trace:
    rows = csv.reader(file)
    try:
        heading = [name.strip() for name in next(rows, [])]
        columns = _columns(path, heading)
        requests: list[TraceRequest] = []
        for row in rows:
            if not row:
                continue
            if len(requests) == (MOST_REQUESTS if limit is None else limit):
                break
            requests.append(_csv_request(f"{path}:{rows.line_num}", row, columns, rows.line_num))
    except csv.Error as error:
        raise WorkloadError(f"{path}:{rows.line_num}: not CSV ({error})") from None
    return _trace(path, requests, timed=columns[0] is not None)


def _columns(path: Path, heading: list[str]) -> tuple[int | None, int, int]:
    """Where time, prompt and answer stand."""
    for time_name, prompt, answer in (
        ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
        (None, "num_prefill_tokens", "num_decode_tokens"),
    ):
        if prompt in heading and answer in heading and (time_name is None or time_name in heading):
            at = None if time_name is None else heading.index(time_name)
            return at, heading.index(prompt), heading.index(answer)
    raise WorkloadError(
        f"{path}:1: no workload: expected Mooncake-style JSON lines, or a CSV with the columns TIMESTAMP, "
        "ContextTokens, GeneratedTokens or num_prefill_tokens, num_decode_tokens"
    )


def _csv_request(where: str, row: list[str], columns: tuple[int | None, int, int], line: int) -> TraceRequest:
    time_at, prompt_at, answer_at = columns
    if len(row) <= max(time_at or 0, prompt_at, answer_at):
        raise WorkloadError(f"{where}: only {len(row)} columns")
    return TraceRequest(
        at=0.0 if time_at is None else _seconds(row[time_at], where),
        prompt=_tokens(row[prompt_at], "the prompt's length", where),
        answer=_tokens(row[answer_at], "the answer's length", where),
        line=line,
    )


def _seconds(text: str, where: str) -> float:
    """Seconds since 1970 of `2023-11-16 18:17:03.9799600` (any number of digits, UTC unless it says otherwise)."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise WorkloadError(f"{where}: not a time like 2023-11-16 18:17:03.9799600: {text!r:.40}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _trace(path: Path, requests: list[TraceRequest], *, timed: bool) -> Trace:
    if not requests:
        raise WorkloadError(f"{path}:1: holds no requests")
    requests.sort(key=lambda one: one.at)
    start = requests[0].at
    moved = (TraceRequest(one.at - start, one.prompt, one.answer, one.blocks, one.line) for one in requests)
    return Trace(str(path), tuple(moved), timed)
