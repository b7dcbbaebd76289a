"""Reading: lines, scalars as Kubernetes reads them, several documents a file, and everything that may not be read."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from headrace.config.documents import MAX_FILE, UNREADABLE, Document, ReadResult, read_paths, read_text
from headrace.model.problem import Severity


def read(text: str | bytes) -> ReadResult:
    return read_text(text, "a.yaml", "test")


def only(text: str) -> Document:
    result = read(text)
    assert result.problems == ()
    (document,) = result.documents
    return document


def refusal(text: str | bytes) -> tuple[int, str]:
    """(line, message) of the only problem of a text of which nothing can be read."""
    result = read(text)
    assert result.documents == ()
    assert result.broken == {"a.yaml"}
    (problem,) = result.problems
    assert (problem.code, problem.severity, problem.file) == (UNREADABLE, Severity.ERROR, "a.yaml")
    return problem.line, problem.message


def test_every_field_has_the_line_of_its_key() -> None:
    document = only(
        """\
# a comment
apiVersion: v1
kind: Service
metadata:
  name: chat
  labels: {app: chat,
    tier: "1"}
spec:
  ports:
  - port: 80

    name: http
  - {port: 81}
"""
    )
    assert document.line == 2
    assert document.lines[("metadata",)] == 4
    assert document.lines[("metadata", "labels", "app")] == 6
    assert document.lines[("metadata", "labels", "tier")] == 7
    assert document.lines[("spec", "ports")] == 9
    assert document.lines[("spec", "ports", 0)] == 10
    assert document.lines[("spec", "ports", 0, "name")] == 12
    assert document.lines[("spec", "ports", 1, "port")] == 13
    assert (document.kind, document.namespace, document.name, document.group, document.version) == (
        "Service",
        "default",
        "chat",
        "",
        "v1",
    )


def test_a_missing_field_is_located_at_what_holds_it() -> None:
    document = only("kind: A\nspec:\n  http:\n  - route:\n    - weight: 1\n")
    assert document.locate(("spec", "http", 0, "route", 0, "destination")) == (
        ("spec", "http", 0, "route", 0, "destination"),
        5,
    )


def test_locate_finds_snake_case_spelling_and_leaves_out_what_is_no_field() -> None:
    document = only("kind: A\nspec:\n  app_protocol: x\n  headers:\n    a.b/c: 1\n")
    assert document.locate(("spec", "appProtocol")) == (("spec", "app_protocol"), 3)
    assert document.locate(("spec", "headers", "a.b/c", "[key]")) == (("spec", "headers", "a.b/c"), 5)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("yes", True),
        ("Off", False),
        ("y", "y"),
        ("null", None),
        ("~", None),
        ("", None),
        ("'yes'", "yes"),
        ("0x1f", 31),
        ("0o17", 15),
        ("017", 15),
        ("08", 8.0),
        ("1_000", 1000),
        ("-7", -7),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("2026-11-21", "2026-11-21"),
        ("2026-11-21T10:00:00Z", "2026-11-21T10:00:00Z"),
        ("12:30:45", "12:30:45"),
        ("1.2.3", "1.2.3"),
        ("5s", "5s"),
        ("!!str 5", "5"),
        ("! 5", "5"),
        ("'5'", "5"),
        ("=", "="),
        ("*.example.com", None),
    ],
)
def test_scalars_are_what_kubernetes_takes_them_for(written: str, value: object) -> None:
    if written.startswith("*"):
        assert "alias" in refusal(f"kind: {written}\n")[1]
    else:
        found = only(f"value: {written}\n").data["value"]
        assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("written", [".inf", "-.inf", ".nan", "9" * 30, "1e999", "!!python/object:os.system x", "!a b"])
def test_scalars_that_no_document_may_use_are_refused(written: str) -> None:
    line, message = refusal(f"kind: A\nvalue: {written}\n")
    assert line == 2
    assert message


def test_keys_are_text_as_they_are_written() -> None:
    assert only("8080: a\non: b\n'': c\n").data == {"8080": "a", "on": "b", "": "c"}


def test_a_field_written_twice_is_refused_with_both_lines() -> None:
    assert refusal("kind: A\nspec:\n  a: 1\n  b: 2\n  a: 3\n") == (5, "field 'a' is written twice, first in line 3")


def test_aliases_and_merge_keys_bring_values() -> None:
    document = only("base: &b {x: 1, y: 2}\nover:\n  <<: *b\n  y: 3\nsame: *b\n")
    assert document.data == {"base": {"x": 1, "y": 2}, "over": {"y": 3, "x": 1}, "same": {"x": 1, "y": 2}}


def test_documents_of_one_file_keep_their_order_and_lines() -> None:
    result = read("---\n# nothing\n---\nkind: A\n---\nnull\n---\nkind: B\n...\n---\nkind: C\n")
    assert [(item.kind, item.line, item.index) for item in result.documents] == [("A", 4, 0), ("B", 8, 1), ("C", 11, 2)]
    assert result.problems == ()


def test_a_list_is_unpacked_with_lines_of_its_items() -> None:
    result = read(
        "apiVersion: v1\nkind: List\nitems:\n- kind: A\n  metadata: {name: a}\n- kind: B\n  spec:\n    x: 1\n"
    )
    assert [(item.kind, item.line) for item in result.documents] == [("A", 4), ("B", 6)]
    assert result.documents[1].lines[("spec", "x")] == 8


def test_json_is_read_with_lines() -> None:
    assert only('{\n  "kind": "A",\n  "spec": {\n    "x": [1,\n 2]}}\n').lines[("spec", "x", 1)] == 5


def test_one_broken_document_does_not_lose_the_others() -> None:
    result = read("kind: A\n---\nkind: [b\n---\nkind: C\nspec: {x: 1}\n---\n\tkind: d\n---\nkind: E\n")
    assert [(item.kind, item.line) for item in result.documents] == [("A", 1), ("C", 5), ("E", 10)]
    assert [problem.line for problem in result.problems] == [4, 8]
    assert result.broken == {"a.yaml"}


def test_a_document_that_is_refused_does_not_lose_those_after_it() -> None:
    result = read("kind: A\nkind: B\n---\nkind: C\n---\n- 1\n---\nkind: D\n")
    assert [item.kind for item in result.documents] == ["C", "D"]
    assert [problem.line for problem in result.problems] == [2, 6]


def test_digest_follows_content_alone() -> None:
    one = only("kind: A\nmetadata: {name: a, resourceVersion: '7'}\nspec: {x: 1, y: 2}\n")
    same = only("# moved\nkind: A\nspec:\n  y: 2\n  x: 1\nmetadata:\n  name: a\nstatus: {x: 1}\n")
    other = only("kind: A\nmetadata: {name: a}\nspec: {x: 1, y: '2'}\n")
    assert one.digest == same.digest != other.digest


def test_a_yaml_bomb_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 9)}]" for at in range(1, 30)]
    started = time.perf_counter()
    line, message = refusal("\n".join(lines))
    assert time.perf_counter() - started < 1.0
    assert line > 1
    assert "aliases" in message


def test_an_alias_to_itself_is_refused() -> None:
    assert "stands for nothing" in refusal("a: &a [*a]\n")[1]


@pytest.mark.parametrize("text", ["[" * 1_000_000, "- " * 1_000_000, "{a: " * 500_000, "? " * 500_000])
def test_deep_nesting_is_refused_at_once(text: str) -> None:
    started = time.perf_counter()
    assert any(word in refusal(text)[1] for word in ("64 levels", "must be plain text"))
    assert time.perf_counter() - started < 5.0


@pytest.mark.parametrize(
    ("data", "line", "word"),
    [
        (b"kind: A\nx: \xff\xfe\n", 2, "UTF-8"),
        ("kind: ü\n".encode("utf-16"), 1, "UTF-8"),
        (b"kind: A\nx: a\0b\n", 2, "NUL"),
        (b"kind: A\nx: \x01\n", 1, "YAML"),
        (b"x" * (MAX_FILE + 1), 0, "4 MiB"),
    ],
)
def test_bytes_that_are_no_text_are_refused(data: bytes, line: int, word: str) -> None:
    found, message = refusal(data)
    assert word in message
    assert found == line


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert only("\ufeffkind: A\n").kind == "A"
    assert read("\ufeffkind: A\n".encode()).documents[0].kind == "A"


def test_directories_are_read_sorted_without_hidden_and_other_files(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", "sub/c.json", ".hidden.yaml", ".git/d.yaml", "e.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("{kind: A}")
    result = read_paths([tmp_path, tmp_path / "a.yml"], "test")
    assert [item.file for item in result.documents] == [
        str(tmp_path / name) for name in ("a.yml", "b.yaml", "sub/c.json")
    ]
    assert result.problems == ()


def test_links_that_lead_back_are_refused_and_the_rest_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: A\n")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "up").symlink_to(tmp_path)
    (tmp_path / "self.yaml").symlink_to(tmp_path / "self.yaml")
    result = read_paths([tmp_path], "test")
    assert [item.kind for item in result.documents] == ["A"]
    assert sorted((Path(problem.file).name, "symbolic link" in problem.message) for problem in result.problems) == [
        ("self.yaml", True),
        ("up", True),
    ]


def test_a_linked_file_is_read_once_under_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "a.yaml").write_text("kind: A\n")
    (tmp_path / "a.yaml").symlink_to(tmp_path / "..data" / "a.yaml")
    assert [item.file for item in read_paths([tmp_path], "test").documents] == [str(tmp_path / "a.yaml")]


def test_what_is_no_regular_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "b.yaml"))
        result = read_paths([tmp_path, "/dev/zero"], "test")
    assert [problem.message for problem in result.problems] == ["is not a regular file"] * 3


def test_a_missing_path_and_a_large_file_are_problems_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "large.yaml").write_bytes(b"#" * 10 * 1024 * 1024)
    result = read_paths([tmp_path / "nowhere", tmp_path / "large.yaml"], "test")
    assert [(problem.message, bool(problem.remedy)) for problem in result.problems] == [
        ("does not exist", True),
        ("is larger than 4 MiB", True),
    ]
    assert result.broken == {str(tmp_path / "nowhere"), str(tmp_path / "large.yaml")}


def test_a_file_without_permission_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: A\n")
    (tmp_path / "a.yaml").chmod(0)
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)  # root may read every file
    try:
        result = read_paths([tmp_path / "a.yaml"], "test")
    finally:
        os.seteuid(user)
    assert [problem.message for problem in result.problems] == ["may not be read"]


def test_a_text_of_very_many_documents_is_refused() -> None:
    assert "more than 20000 documents" in refusal("---\na: 1\n" * 20_001)[1]
    assert len(read("---\n[\n" * 300 + "---\nkind: A\n").problems) == 300


def test_a_document_of_very_many_values_is_refused() -> None:
    assert "more than 400000 values" in refusal("a: [" + "1," * 400_001 + "]\n")[1]
