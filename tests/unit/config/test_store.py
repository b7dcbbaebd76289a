"""The store: last good revisions, one owner a document, stable objects, versions, and what survives a restart."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from headrace.config.documents import FileCache, ReadResult, read_paths, read_text
from headrace.config.journal import JournalError, SqliteJournal
from headrace.config.store import API, Applied, ConfigStore
from headrace.model.mesh import MeshConfig
from headrace.model.resource import ResourceKey

CHAT = ResourceKey("Service", "default", "chat")
CODE = ResourceKey("Service", "default", "code")


def service(name: str = "chat", port: object = 80, version: str = "") -> str:
    written = f", resourceVersion: '{version}'" if version else ""
    head = f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}{written}}}\n"
    return head + f"spec: {{ports: [{{port: {port}}}]}}\n"


def text(*documents: str, file: str = "a.yaml", source: str = "dir") -> ReadResult:
    return read_text("".join(documents), file, source)


def apply(store: ConfigStore, *documents: str) -> Applied:
    return store.apply(API, text(*documents, file="stdin", source=API).documents)


def codes(store: ConfigStore) -> list[str]:
    return [problem.code for problem in store.revision().findings]


def port(store: ConfigStore, key: ResourceKey = CHAT) -> int:
    number: int = store.revision().resources[key].ports[0].number
    return number


def test_an_empty_store_has_istios_defaults() -> None:
    revision = ConfigStore().revision()
    assert (dict(revision.resources), revision.findings, revision.problems) == ({}, (), ())
    assert revision.mesh.trust_domain == "cluster.local"


def test_resources_are_sorted_whatever_the_order_of_documents() -> None:
    one, other = ConfigStore(), ConfigStore()
    one.replace_source("dir", text(service("a"), service("b")))
    other.replace_source("dir", text(service("b"), service("a")))
    assert list(one.revision().resources) == list(other.revision().resources)


def test_the_same_content_again_is_the_same_revision() -> None:
    store = ConfigStore()
    first = store.replace_source("dir", text(service()))
    assert store.replace_source("dir", text(service())) is first


def test_unchanged_documents_keep_their_objects() -> None:
    store = ConfigStore()
    before = store.replace_source("dir", text(service("chat"), service("code")))
    after = store.replace_source("dir", text(service("chat", 81), service("code")))
    assert after.number == before.number + 1
    assert after.resources[CODE] is before.resources[CODE]
    assert after.resources[CHAT] is not before.resources[CHAT]


def test_a_comment_above_moves_lines_but_changes_no_object() -> None:
    store = ConfigStore()
    route = (
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\n"
        "spec:\n  hosts: [a]\n  http:\n  - route:\n    - destination: {host: chat, subset: none}\n"
    )
    before = store.replace_source("dir", text(service(), route))
    after = store.replace_source("dir", text("# moved\n", service(), route))
    assert after.number == before.number
    assert all(after.resources[key] is before.resources[key] for key in before.resources)
    first = {problem.code: problem.line for problem in before.problems if problem.code == "IST0101"}
    assert first
    assert {problem.code: problem.line for problem in after.problems if problem.code == "IST0101"} == {
        code: line + 1 for code, line in first.items()
    }


def test_a_document_that_went_bad_keeps_its_last_good_revision() -> None:
    store = ConfigStore()
    store.replace_source("dir", text(service("chat", 80), service("code", 90)))
    store.replace_source("dir", text(service("chat", "x"), service("code", 91)))
    assert (port(store), port(store, CODE)) == (80, 91)
    (problem,) = store.revision().findings
    assert (problem.code, problem.line) == ("IST0106", 5)
    assert "last good revision stays in force" in problem.remedy
    store.replace_source("dir", text(service("chat", 82), service("code", 91)))
    assert (port(store), codes(store)) == (82, [])


def test_a_bad_document_that_never_was_good_is_left_out() -> None:
    store = ConfigStore()
    store.replace_source("dir", text(service("chat", "x"), service("code")))
    assert list(store.revision().resources) == [CODE]


@pytest.mark.parametrize(
    "broken",
    [
        "kind: [\n",
        "---\napiVersion: v1\nkind: Service\nmetadata: {nam: chat}\nspec: {ports: [{port: 80}]}\n",
        "---\napiVersion: v1\nkind: Servic\nmetadata: {name: chat}\n",
        "---\napiVersion: v9\nkind: Service\nmetadata: {name: chat}\n",
        "---\n- 1\n",
    ],
)
def test_what_a_broken_file_held_stays(broken: str) -> None:
    store = ConfigStore()
    store.replace_source("dir", text(service("chat", 80)))
    store.replace_source("dir", text(broken, service("code")))
    assert sorted(store.revision().resources) == [CHAT, CODE]
    assert codes(store) != []


def test_a_document_that_was_removed_is_gone(tmp_path: Path) -> None:
    store = ConfigStore()
    (tmp_path / "a.yaml").write_text(service("chat"))
    (tmp_path / "b.yaml").write_text(service("code"))
    store.replace_source("dir", read_paths([tmp_path], "dir"))
    (tmp_path / "a.yaml").unlink()
    (tmp_path / "b.yaml").write_text("kind: [")
    store.replace_source("dir", read_paths([tmp_path], "dir"))
    assert list(store.revision().resources) == [CODE]
    (tmp_path / "b.yaml").unlink()
    assert dict(store.replace_source("dir", read_paths([tmp_path], "dir")).resources) == {}


def test_documents_stay_when_their_directory_cannot_be_read(tmp_path: Path) -> None:
    store = ConfigStore()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.yaml").write_text(service("chat"))
    store.replace_source("dir", read_paths([tmp_path / "docs"], "dir"))
    (tmp_path / "docs").rename(tmp_path / "away")
    store.replace_source("dir", read_paths([tmp_path / "docs"], "dir"))
    assert list(store.revision().resources) == [CHAT]
    assert codes(store) == ["HR0004"]


def test_the_first_of_two_documents_of_one_name_wins() -> None:
    store = ConfigStore()
    store.replace_source("dir", text(service("chat", 80), service("chat", 81)))
    (problem,) = store.revision().findings
    assert port(store) == 80
    assert (problem.code, problem.line) == ("HR0005", 7)
    assert "first at a.yaml:2" in problem.message


def test_another_source_may_not_bring_the_same_document() -> None:
    store = ConfigStore()
    store.replace_source("dir", text(service("chat", 80)))
    applied = apply(store, service("chat", 81), service("code", 90))
    assert (applied.keys, port(store), port(store, CODE)) == ((CODE,), 80, 90)
    (problem,) = applied.problems
    assert (problem.code, problem.message) == ("HR0006", "Service default/chat belongs to dir")
    assert "a.yaml:2" in problem.remedy
    refused = store.delete(API, CHAT)
    assert refused is not None
    assert "belongs to dir" in refused.message


def test_a_source_that_waited_takes_over_when_the_owner_goes() -> None:
    store = ConfigStore()
    store.replace_source("one", text(service("chat", 80), source="one"))
    store.replace_source("two", text(service("chat", 81), file="b.yaml", source="two"))
    assert (port(store), codes(store)) == (80, ["HR0006"])
    store.replace_source("one", ReadResult())
    assert (port(store), codes(store)) == (81, [])


def test_apply_reports_the_bad_and_brings_the_good() -> None:
    store = ConfigStore()
    applied = apply(store, service("chat", "x"), service("code", 90))
    assert (applied.keys, applied.changed) == ((CODE,), (CODE,))
    assert [problem.code for problem in applied.problems] == ["IST0106"]
    assert apply(store, service("code", 90)).changed == ()
    assert apply(store, service("code", 91)).changed == (CODE,)
    assert sorted(store.revision().resources) == [CODE]


def test_apply_of_a_bad_document_keeps_the_good_one() -> None:
    store = ConfigStore()
    apply(store, service("chat", 80))
    assert apply(store, service("chat", "x")).keys == ()
    assert port(store) == 80


def test_a_change_of_an_older_version_is_a_conflict() -> None:
    store = ConfigStore()
    apply(store, service("chat", 80))
    stored = store.get(CHAT)
    assert stored is not None
    seen = str(stored.version)
    assert apply(store, service("chat", 81, version=seen)).changed == (CHAT,)
    late = apply(store, service("chat", 82, version=seen))
    assert ([problem.code for problem in late.problems], port(store)) == (["HR0007"], 81)
    assert late.problems[0].field == "metadata.resourceVersion"
    gone = apply(store, service("code", 82, version="3"))
    assert [problem.code for problem in gone.problems] == ["HR0007"]


def test_delete_takes_out_of_force_and_says_what_is_not_there() -> None:
    store = ConfigStore()
    apply(store, service("chat"), service("code"))
    assert store.delete(API, CHAT) is None
    assert list(store.revision().resources) == [CODE]
    missing = store.delete(API, CHAT)
    assert missing is not None
    assert missing.message == "there is no Service default/chat"


def test_mesh_config_stands_beside_the_resources() -> None:
    store = ConfigStore(mesh=MeshConfig(trust_domain="start"))
    assert store.revision().mesh.trust_domain == "start"
    mesh = "---\napiVersion: headrace.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: {0}}}\n"
    mesh += "spec: {{trustDomain: {0}}}\n"
    store.replace_source("dir", text(mesh.format("one"), mesh.format("two"), service()))
    revision = store.revision()
    assert (revision.mesh.trust_domain, list(revision.resources), codes(store)) == ("one", [CHAT], ["HR0005"])
    number = revision.number
    store.replace_source("dir", text(service()))
    assert (store.revision().mesh.trust_domain, store.revision().number) == ("start", number + 1)


def test_a_cache_of_files_gives_the_same_documents_until_bytes_change(tmp_path: Path) -> None:
    cache: FileCache = {}
    (tmp_path / "a.yaml").write_text(service("chat"))
    (tmp_path / "b.yaml").write_text(service("code"))
    before = read_paths([tmp_path], "dir", cache).documents
    (tmp_path / "b.yaml").write_text(service("code", 81))
    after = read_paths([tmp_path], "dir", cache).documents
    assert (after[0] is before[0], after[1] is before[1]) == (True, False)
    (tmp_path / "a.yaml").unlink()
    read_paths([tmp_path], "dir", cache)
    assert list(cache) == [str(tmp_path / "b.yaml")]


def reopened(path: Path) -> ConfigStore:
    return ConfigStore(SqliteJournal.open(path))


def test_applied_documents_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "documents.sqlite"
    store = reopened(path)
    apply(
        store, service("chat", 80), service("code", 90), "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: ai}\n"
    )
    apply(store, service("chat", 81))
    store.delete(API, CODE)
    before = store.get(CHAT)
    assert before is not None
    again = reopened(path)
    assert sorted(map(str, again.revision().resources)) == ["Namespace ai", "Service default/chat"]
    after = again.get(CHAT)
    assert after is not None
    assert (port(again), after.version, after.document.lines) == (81, before.version, before.document.lines)
    assert again.revision().number > after.version
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_last_good_documents_of_a_directory_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "documents.sqlite"
    store = reopened(path)
    store.replace_source("dir", text(service("chat", 80), service("code", 90)))
    again = reopened(path)
    assert dict(again.revision().resources) == {}
    again.replace_source("dir", text(service("chat", "x"), service("code", 91)))
    assert (port(again), port(again, CODE)) == (80, 91)
    once_more = reopened(path)
    once_more.replace_source("dir", text(service("code", 91)))
    assert list(once_more.revision().resources) == [CODE]
    last = reopened(path)
    last.replace_source("dir", text("kind: [\n---\n", service("code", "x")))
    assert list(last.revision().resources) == [CODE]


def test_a_journal_that_is_none_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "documents.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(JournalError, match="move the file away"):
        SqliteJournal.open(tmp_path / "documents.sqlite")
