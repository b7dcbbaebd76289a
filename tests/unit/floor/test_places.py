"""The state directory: private, versioned, with socket paths that fit into sockaddr_un."""

import stat
from pathlib import Path

import pytest

from headrace.floor.files import write_private
from headrace.floor.places import Places, StateError


def test_everything_made_is_owner_only(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    places = Places.open(tmp_path / "state")
    for path in (places.state, places.sockets, places.logs, places.ca, places.agent, places.proxies):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    assert stat.S_IMODE((places.state / "schema").stat().st_mode) == 0o600


def test_other_schema_is_refused_with_a_remedy(tmp_path: Path) -> None:
    Places.open(tmp_path)
    (tmp_path / "schema").write_text("99\n")
    with pytest.raises(StateError, match=r"schema '99'.*another --state"):
        Places.open(tmp_path)


def test_deep_state_directories_get_short_socket_paths(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    places = Places.open(deep)
    for socket in (places.api_socket, places.xds_socket("default/" + "x" * 200), places.admin_socket("a/b-0")):
        assert len(str(socket)) <= 107
    assert stat.S_IMODE(places.sockets.stat().st_mode) == 0o700
    assert Places.open(deep).sockets == places.sockets


def test_replicas_with_like_names_have_sockets_of_their_own(tmp_path: Path) -> None:
    places = Places(tmp_path)
    names = ["default/chat-v1-0", "default/chat-v1-1", "default-chat/v1-0", "default/chat.v1-0"]
    assert len({places.xds_socket(name) for name in names} | {places.admin_socket(name) for name in names}) == 8


def test_write_private_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old and much longer")
    path.chmod(0o644)
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in tmp_path.iterdir()] == ["secret"]
