"""Connections to a local port, counted from the kernel's own list."""

from __future__ import annotations

import socket
from pathlib import Path

from headrace.agent.connections import connections_to


def test_open_connections_are_counted_until_they_close() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert connections_to([port]) == 0, "listening is no connection"
        with socket.create_connection(("127.0.0.1", port)), server.accept()[0]:
            assert connections_to([port]) == 1
            assert connections_to([]) == 0
        assert connections_to([port]) == 0


def test_a_server_that_listens_for_both_families_is_seen_too() -> None:
    with socket.socket(socket.AF_INET6) as server:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind(("::", 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), server.accept()[0]:
            assert connections_to([port]) == 1


def test_an_unreadable_table_counts_nothing(tmp_path: Path) -> None:
    assert connections_to([80], [tmp_path / "none"]) == 0
