"""A mesh that runs says what is newly wrong with its documents: once, as long as it stays wrong."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from headrace.app import up
from headrace.app.api.client import ApiClient, ApiUnreachable
from headrace.floor.places import Places


def test_each_problem_is_told_when_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()
    answers = iter((["old"], ["old", "new"], None, ["old", "new"], ["old"], ["new"]))

    def call(self: ApiClient, method: str, path: str) -> dict[str, list[str]]:
        found = next(answers, "end")
        if found == "end":
            asked.set()
            return {"problems": []}
        if found is None:
            raise ApiUnreachable("starting")
        return {"problems": list(found)}

    monkeypatch.setattr(up, "_LOOK", 0.0)
    monkeypatch.setattr(ApiClient, "call", call)
    told: list[str] = []
    up.follow_problems(Places.open(tmp_path / "state"), asked, {"old"}, told.append)
    assert told == ["new", "new"]
