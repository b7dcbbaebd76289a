"""The memo: built once a key, bounded, one result a slot."""

from __future__ import annotations

from headrace.envoy.translate.memo import Memo


def test_a_key_is_built_once() -> None:
    memo = Memo()
    calls: list[int] = []

    def build(value: int) -> int:
        calls.append(value)
        return value * 2

    assert [memo.get("double", key, build, key) for key in (1, 2, 1, 2)] == [2, 4, 2, 4]
    assert calls == [1, 2]
    assert memo.built == {"double": 2}


def test_kinds_do_not_meet() -> None:
    memo = Memo()
    assert (memo.get("a", 1, str, "x"), memo.get("b", 1, str, "y")) == ("x", "y")


def test_none_is_a_result() -> None:
    memo = Memo()
    assert [memo.get("nothing", 1, lambda: None) for _ in range(2)] == [None, None]
    assert memo.built["nothing"] == 1


def test_the_least_recently_used_goes_first() -> None:
    memo = Memo(limit=2)
    for key in (1, 2, 1, 3, 1, 2):
        memo.get("k", key, int)
    assert memo.built["k"] == 4  # 1, 2, 3, and 2 again; 1 was always in use


def test_a_slot_holds_the_newest_only() -> None:
    memo = Memo()
    built = [memo.latest("whole", "slot", key, object) for key in (1, 1, 2, 1)]
    assert built[0] is built[1]
    assert built[0] is not built[3]
    assert memo.built["whole"] == 3


def test_slots_are_bounded() -> None:
    memo = Memo(slots=1)
    for slot in (1, 2, 1):
        memo.latest("whole", slot, "key", object)
    assert memo.built["whole"] == 3
