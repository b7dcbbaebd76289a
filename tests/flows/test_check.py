"""`headrace check` as people and scripts run it: a process, its output, its exit code, its time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

KEYS = {"code", "severity", "kind", "namespace", "name", "message", "file", "line"}
GOOD = "apiVersion: v1\nkind: Service\nmetadata: {name: chat}\nspec: {ports: [{name: http, port: 80}]}\n"
BAD = "apiVersion: v1\nkind: Service\nmetadata: {name: chat}\nspec:\n  ports:\n  - {name: http, prot: 80}\n"
WARNED = "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: s}\nspec: {}\n"


def check(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headrace", "check", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


def problems(*arguments: str | Path) -> list[dict[str, Any]]:
    found = json.loads(check("-o", "json", *arguments).stdout)
    assert isinstance(found, list)
    return found


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    (tmp_path / "bad.yaml").write_text(BAD)
    (tmp_path / "good.yaml").write_text(GOOD.replace("chat", "good"))
    return tmp_path


def test_a_good_file_exits_with_0(docs: Path) -> None:
    result = check(docs / "good.yaml")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "1 document: 0 errors, 0 warnings, 0 infos\n"


def test_an_error_exits_with_1_and_names_its_place(docs: Path) -> None:
    result = check(docs)
    assert result.returncode == 1
    assert f"{docs}/bad.yaml:6: error IST0106 Service default/chat spec.ports[0].prot: " in result.stdout
    assert "unknown field 'prot'. Did you mean 'port'?" in result.stdout
    assert result.stderr == ""


def test_a_warning_alone_exits_with_0(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(WARNED)
    result = check(tmp_path)
    assert (result.returncode, " HR0001 " in result.stdout) == (0, True)


def test_json_is_one_array_with_the_promised_keys(docs: Path) -> None:
    found = problems(docs)
    assert all(set(problem) >= KEYS for problem in found)
    first = found[0]
    assert (first["code"], first["severity"], first["kind"], first["namespace"], first["name"], first["line"]) == (
        "IST0106",
        "error",
        "Service",
        "default",
        "chat",
        6,
    )
    assert json.loads(check("-o", "json", docs / "good.yaml").stdout) == []


def test_yaml_says_the_same_as_json(docs: Path) -> None:
    assert yaml.safe_load(check("-o", "yaml", docs).stdout) == problems(docs)


def test_wrong_usage_exits_with_2(docs: Path) -> None:
    assert check().returncode == 2
    assert check("-o", "xml", docs).returncode == 2
    assert check("--nonsense", docs).returncode == 2


def test_a_missing_path_is_an_answer_of_no(tmp_path: Path) -> None:
    result = check(tmp_path / "nowhere")
    assert result.returncode == 1
    assert "HR0004: does not exist. Check the path." in result.stdout


def test_standard_input_is_read() -> None:
    result = check("-o", "json", "-", stdin=BAD)
    assert {(item["file"], item["line"]) for item in json.loads(result.stdout)} >= {("<stdin>", 6)}


def test_mesh_config_is_judged_with_the_documents(docs: Path) -> None:
    (docs / "mesh").write_text("trustDomain: example.org\nconnectTimeot: 1s\n")
    found = problems("--mesh-config", docs / "mesh", docs / "good.yaml")
    assert [(item["code"], item["kind"], item["line"], item["remedy"]) for item in found] == [
        ("IST0106", "MeshConfig", 2, "Did you mean 'connectTimeout'?")
    ]


def test_judgements_across_documents_have_exact_lines(docs: Path) -> None:
    (docs / "bad.yaml").write_text(
        "# comment\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec:\n"
        "  hosts: [good]\n  http:\n  - route:\n    - destination:\n        host: good\n        subset: v9\n"
    )
    found = [item for item in problems(docs) if item["code"] == "IST0101"]
    assert [(item["line"], item["field"]) for item in found] == [(11, "spec.http[0].route[0].destination.subset")]


def test_paths_given_twice_are_read_once(docs: Path) -> None:
    assert problems(docs, docs / "bad.yaml", docs) == problems(docs)


def test_hostile_files_are_one_clear_error_each(tmp_path: Path) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 9)}]" for at in range(1, 12)]
    (tmp_path / "bomb.yaml").write_text("\n".join(levels))
    (tmp_path / "deep.yaml").write_text("[" * 200_000)
    (tmp_path / "large.yaml").write_bytes(b"a: " + b"x" * 10 * 1024 * 1024)
    (tmp_path / "latin.yaml").write_bytes(b"kind: \xe4\n")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "self").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "good.yaml").write_text(GOOD)
    started = time.perf_counter()
    found = problems(tmp_path)
    assert time.perf_counter() - started < 5.0
    assert sorted(Path(item["file"]).name for item in found if item["severity"] == "error") == [
        "bomb.yaml",
        "deep.yaml",
        "fifo.yaml",
        "large.yaml",
        "latin.yaml",
        "loop.yaml",
        "self",
    ]
    assert {item["code"] for item in found if item["severity"] == "error"} == {"HR0004"}
    assert all(item["message"] and item["remedy"] for item in found if item["severity"] == "error")


def test_a_secret_never_shows_its_value(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: hunter2!}\nstringDat: {b: hunter2}\n"
    )
    result = check(tmp_path)
    assert result.returncode == 1
    assert "hunter2" not in result.stdout + result.stderr


def test_one_file_is_judged_without_loading_what_runs_meshes(docs: Path) -> None:
    """benchmarks/cli_start.py measures how fast that is."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "headrace", "check", str(docs / "good.yaml")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "headrace.config.judge" in loaded
    heavy = ("headrace.registry", "headrace.envoy", "headrace.agent", "headrace.identity", "grpc", "aiohttp")
    assert not [name for name in loaded if name.startswith(heavy)]
