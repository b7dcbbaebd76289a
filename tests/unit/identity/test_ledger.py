"""The ledger keeps what was issued, lets others read meanwhile, and stays bounded."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from headrace.identity.ledger import Entry, Ledger, LedgerError, Retention


def entry(number: int, *, start: float = 0.0, life: float = 100.0, replica: str = "default/chat-0") -> Entry:
    return Entry(
        serial=f"{number + 0xA0:x}",
        identity="spiffe://cluster.local/ns/default/sa/chat",
        replica=replica,
        host="here",
        not_before=start,
        not_after=start + life,
        issued_at=start,
        spki_sha256=f"{number:064x}",
    )


def test_entries_come_back_newest_first(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger.open(path)
    for number in range(3):
        ledger.record(entry(number, start=float(number)))
    ledger.record(entry(9, start=1.5, replica="default/other-0"))
    assert [item.serial for item in ledger.entries()] == ["a2", "a9", "a1", "a0"]
    assert [item.serial for item in ledger.entries(replica="default/chat-0", limit=2)] == ["a2", "a1"]
    assert ledger.entries(identity="spiffe://cluster.local/ns/x/sa/y") == []
    assert ledger.inspect("A1") == ledger.inspect("00:a1") == entry(1, start=1.0)
    assert ledger.inspect("ff") is None
    ledger.close()
    assert len(Ledger.open(path).entries()) == 4


def test_current_and_expiring(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    ledger.record(entry(0, start=0.0))
    ledger.record(entry(1, start=50.0))
    ledger.record(entry(2, start=10.0, replica="default/other-0"))
    assert [item.serial for item in ledger.current(60.0)] == ["a1", "a2"]
    assert [item.serial for item in ledger.current(120.0)] == ["a1"]
    assert [item.serial for item in ledger.expiring(60.0, within=50.0)] == ["a0", "a2"]
    assert ledger.expiring(60.0, within=1.0) == []


def test_files_are_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.touch(mode=0o644)
    ledger = Ledger.open(path)
    ledger.record(entry(0))
    modes = {item.name: stat.S_IMODE(item.stat().st_mode) for item in tmp_path.iterdir()}
    assert set(modes) == {"ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"}
    assert set(modes.values()) == {0o600}


def test_a_serial_is_recorded_once(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    ledger.record(entry(0))
    with pytest.raises(LedgerError, match="UNIQUE"):
        ledger.record(entry(0, start=5.0))
    assert ledger.entries() == [entry(0)]


def test_another_process_reads_while_this_one_writes(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger.open(path)
    ledger.record(entry(0))
    script = (
        "import sys, pathlib; from headrace.identity.ledger import Ledger, LedgerError, Entry\n"
        "ledger = Ledger.read(pathlib.Path(sys.argv[1])); print(len(ledger.entries()), flush=True)\n"
        "input(); print(len(ledger.entries()))\n"
        "try: ledger.record(ledger.entries()[0])\n"
        "except LedgerError as error: print('readonly' in str(error))\n"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "1\n"
        ledger.record(entry(1))
        rest, _ = reader.communicate("\n", timeout=20)
        assert rest == "2\nTrue\n"
    finally:
        reader.kill()
        reader.wait()


def test_a_closed_ledger_can_still_be_read(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger.open(path)
    ledger.record(entry(0))
    ledger.close()
    assert Ledger.read(path).entries() == [entry(0)]


def test_threads_may_share_it(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger.sqlite")
    threads = [
        threading.Thread(target=lambda base=base: [ledger.record(entry(base * 20 + n)) for n in range(20)])
        for base in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(ledger.entries()) == 80


def test_expired_entries_go_after_their_retention(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger.open(path, Retention(age=50.0, entries=1000))
    for number in range(10):
        ledger.record(entry(number, start=float(number)))
    ledger.close()
    # A newly opened ledger prunes with its first record: at 155 those that ended before 105 are gone.
    ledger = Ledger.open(path, Retention(age=50.0, entries=1000))
    ledger.record(entry(99, start=155.0))
    assert {item.not_after for item in ledger.entries()} == {105.0, 106.0, 107.0, 108.0, 109.0, 255.0}


def test_growth_is_bounded_but_valid_certificates_stay(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger.open(path, Retention(age=1e9, entries=20))
    for number in range(600):
        ledger.record(entry(number, start=float(number), life=30.0))
    found = ledger.entries(limit=10_000)
    assert len(found) <= 20 + 31 + 100
    assert {item.serial for item in found} >= {entry(number).serial for number in range(570, 600)}


def test_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger.open(path).close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version=7")
    database.close()
    for door in (Ledger.open, Ledger.read):
        with pytest.raises(LedgerError, match="has ledger schema 7, this Headrace has 2"):
            door(path)


def test_damage_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database " * 100)
    with pytest.raises(LedgerError, match=r"not a database.*move it away"):
        Ledger.open(path)
    with pytest.raises(LedgerError, match="unable to open"):
        Ledger.read(tmp_path / "none.sqlite")
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger.open(tmp_path / "nowhere" / "ledger.sqlite")
