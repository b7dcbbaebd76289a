"""children.json: what a restarted agent finds again."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from headrace.agent.capture import Attachment
from headrace.agent.children import ChildRecord, Children, ReplicaRecord
from headrace.floor.processes import ProcessMark

RECORD = ReplicaRecord(
    id="default/chat-0",
    message=b"\x0a\xff\x00",
    attachment=Attachment("127.9.0.1", 15001, "chat-0", "secret-word", ((8000, 20001),)),
    app=ChildRecord(ProcessMark(100, 200), "mesh:app:default/chat-0:1:"),
    proxy=None,
    ready=True,
    restarts=2,
    started_unix_ms=1234,
)
CHILDREN = Children({RECORD.id: RECORD}, ChildRecord(ProcessMark(1, 2), "mesh:control-plane::1:"))


def test_what_is_saved_is_found_again_and_is_the_owners(tmp_path: Path) -> None:
    CHILDREN.save(tmp_path)
    assert Children.load(tmp_path) == (CHILDREN, "")
    assert stat.S_IMODE((tmp_path / "children.json").stat().st_mode) == 0o600


def test_no_file_means_no_children_and_no_complaint(tmp_path: Path) -> None:
    assert Children.load(tmp_path) == (Children(), "")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"schema": 2}',
        b'{"schema": 1}',
        b'{"schema": 1, "replicas": [7], "control_plane": null}',
        b'{"schema": 1, "replicas": [{"id": "x"}], "control_plane": null}',
        b'{"schema": 1, "replicas": [], "control_plane": {"pid": "x"}}',
        b"[" * 100_000,
    ],
)
def test_anything_else_counts_as_none_and_says_so(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "children.json").write_bytes(content)
    children, problem = Children.load(tmp_path)
    assert children == Children() and str(tmp_path) in problem


def test_bad_base64_counts_as_none(tmp_path: Path) -> None:
    CHILDREN.save(tmp_path)
    data = json.loads((tmp_path / "children.json").read_text())
    data["replicas"][0]["message"] = "%%%"
    data["replicas"][0]["attachment"]["app_ports"] = [[1]]
    (tmp_path / "children.json").write_text(json.dumps(data))
    assert Children.load(tmp_path)[0] == Children()


def test_secrets_stay_out_of_texts() -> None:
    assert "secret-word" not in repr(CHILDREN)
