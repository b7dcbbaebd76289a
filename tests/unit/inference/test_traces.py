"""Workload files: the three formats, and one clear error with file and line for everything else."""

import json
from pathlib import Path

import pytest

from headrace.inference.traces import Trace, WorkloadError, read_trace


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def trace(path: Path, limit: int | None = None) -> Trace:
    found = read_trace(path, limit)
    assert isinstance(found, Trace)
    return found


def test_mooncake_lines_are_read_and_sorted_by_time(tmp_path: Path) -> None:
    lines = [
        {"timestamp": 3000, "input_length": 1100, "output_length": 5, "hash_ids": [1, 2, 9]},
        {"timestamp": 1000, "input_length": 100, "output_length": 7, "hash_ids": [4]},
        {"timestamp": 1000, "input_length": 600, "output_length": 0},
    ]
    path = write(tmp_path, "any.name", "\n".join(map(json.dumps, lines)) + "\n\n")
    found = trace(path)
    assert found.timed
    assert [one.at for one in found.requests] == [0.0, 0.0, 2.0]
    assert found.requests[2].blocks == (1, 2)  # the third block is not full: no engine shares it
    assert found.requests[0].blocks == ()
    assert found.requests[1].answer == 1
    assert [one.line for one in found.requests] == [2, 3, 1]


def test_azure_rows_are_read_with_seven_digits_and_with_zones(tmp_path: Path) -> None:
    rows = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    rows += "2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319569,3180,8\n"
    found = trace(write(tmp_path, "a.csv", rows))
    assert found.requests[1].at == pytest.approx(0.052, abs=1e-4)
    assert (found.requests[0].prompt, found.requests[0].answer) == (4808, 10)
    rows = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,1,2\n2024-05-10 00:00:01,3,4\n"
    assert trace(write(tmp_path, "b.csv", rows)).requests[1].at == pytest.approx(0.99007)


def test_lengths_have_no_times_and_limits_hold(tmp_path: Path) -> None:
    path = write(tmp_path, "l.csv", "num_prefill_tokens,num_decode_tokens\n" + "10,2\n" * 50)
    assert not trace(path).timed
    assert len(trace(path, limit=7).requests) == 7


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "no workload"),
        ("hello\n", 1, "columns"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", 1, "no requests"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,1,2\nyesterday,1,2\n", 3, "time"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,1\n", 2, "columns"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,x,2\n", 2, "length"),
        ('{"timestamp": 1, "input_length": 3, "output_length": 4}\n{"timestamp": 1', 2, "JSON"),
        ('{"timestamp": 1, "input_length": 3, "output_length": 4}\n[1]\n', 2, "object"),
        ('{"timestamp": -1, "input_length": 3, "output_length": 4}\n', 1, "timestamp"),
        ('{"timestamp": NaN, "input_length": 3, "output_length": 4}\n', 1, "timestamp"),
        ('{"timestamp": 1, "input_length": 3.5, "output_length": 4}\n', 1, "input_length"),
        ('{"timestamp": 1, "input_length": 3}\n', 1, "output_length is missing"),
        ('{"timestamp": 1, "input_length": 90000000, "output_length": 4}\n', 1, "from 0 to 10000000, not 90000000"),
        ('{"timestamp": 1, "input_length": 3, "output_length": 4, "hash_ids": ["a"]}\n', 1, "hash_ids"),
        ('{\n "a": 1\n}\n', 1, "input_sequence_length"),
        ('{\n "a": \n', 3, "JSON"),
    ],
)
def test_bad_files_are_explained(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = write(tmp_path, "bad", text)
    with pytest.raises(WorkloadError) as error:
        read_trace(path)
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert words in str(error.value)


def test_what_is_no_text_or_no_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x80")
    for path, words in ((tmp_path / "binary", "UTF-8"), (tmp_path / "none", "No such file"), (tmp_path, "directory")):
        with pytest.raises(WorkloadError, match=words):
            read_trace(path)


def test_distributions_come_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path, "d.json", json.dumps({"input_sequence_length": {"mean": 5}}, indent=1))
    assert read_trace(path) == {"input_sequence_length": {"mean": 5}}
