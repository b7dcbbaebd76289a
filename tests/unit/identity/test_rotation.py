"""The schedule of renewals, and the loop that follows it, in time that the test makes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.identity.attest import check_request
from headrace.identity.authority import Authority
from headrace.identity.issuer import IssuedCertificate
from headrace.identity.keys import PrivateKey
from headrace.identity.rotation import (
    MismatchError,
    Renewer,
    Rotation,
    RotationRules,
    RotationState,
    WorkloadCertificate,
    accept,
)
from headrace.model.identity import Identity

DAY = 86400.0


def test_renewal_is_at_half_life_with_jitter() -> None:
    times = []
    for seed in range(200):
        rotation = Rotation(source=random.Random(seed))
        assert rotation.next_try <= 0.0, "the first try is due at once"
        rotation.obtained(1000.0, 1000.0 + DAY)
        times.append((rotation.next_try - 1000.0) / DAY)
    assert 0.45 <= min(times) < 0.46
    assert 0.54 < max(times) <= 0.55


def test_the_same_source_gives_the_same_schedule() -> None:
    def schedule(seed: int) -> list[float]:
        rotation, times = Rotation(source=random.Random(seed)), []
        rotation.obtained(0.0, DAY)
        times.append(rotation.next_try)
        for _ in range(5):
            rotation.failed(rotation.next_try)
            times.append(rotation.next_try)
        return times

    assert schedule(7) == schedule(7) != schedule(8)


@given(
    life=st.floats(1.0, 366 * DAY),
    seed=st.integers(0, 1000),
    delays=st.lists(st.floats(0.0, 20.0), max_size=200),
)
def test_a_failing_renewal_is_always_tried_in_the_margin(life: float, seed: int, delays: list[float]) -> None:
    """However tries fail, the next is soon, and before the margin or (in it) within a tenth of the time left."""
    rules = RotationRules()
    rotation = Rotation(rules, random.Random(seed))
    rotation.obtained(0.0, life)
    latest = life - min(rules.margin, life / 10.0)
    assert rotation.next_try < latest
    now = rotation.next_try
    for delay in delays:
        now = max(now, rotation.next_try) + delay
        rotation.failed(now)
        assert now <= rotation.next_try or now >= latest
        assert rotation.next_try - now <= rules.retry_limit
        if now < life:
            assert rotation.next_try <= max(latest, now + max(rules.retry_first, (life - now) / 10.0))
        else:
            assert rotation.next_try <= now + 5.0


def test_states_follow_the_certificate() -> None:
    rotation = Rotation(RotationRules(margin=10.0), random.Random(1))
    assert rotation.state(0.0) is RotationState.WAITING
    rotation.failed(0.0)
    assert rotation.state(1.0) is RotationState.WAITING
    rotation.obtained(2.0, 102.0)
    assert rotation.state(3.0) is RotationState.FRESH
    assert rotation.failures == 0
    rotation.failed(52.0)
    assert rotation.state(53.0) is RotationState.RETRYING
    assert rotation.state(92.0) is RotationState.ENDANGERED
    assert rotation.state(102.0) is RotationState.EXPIRED
    rotation.obtained(110.0, 210.0)
    assert rotation.state(111.0) is RotationState.FRESH


def test_a_certificate_that_is_over_is_not_taken() -> None:
    rotation = Rotation()
    with pytest.raises(ValueError, match="ended 5 s ago"):
        rotation.obtained(100.0, 95.0)


@pytest.mark.parametrize("rules", [{"fraction": 0.0}, {"fraction": 0.95}, {"jitter": 0.5}, {"retry_first": 0.0}])
def test_senseless_rules_are_refused(rules: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"keep it between|positive"):
        RotationRules(**rules)


class MadeTime:
    """Time that passes only while somebody sleeps."""

    def __init__(self, clock) -> None:
        self.clock = clock

    def now(self) -> float:
        return self.clock.now()

    def monotonic(self) -> float:
        return self.clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.clock.seconds += seconds


class Plane:
    """Signs with a real authority; fails while `down` says so, and notes when it was asked."""

    def __init__(self, authority: Authority, clock, identity: Identity, down: Callable[[float], bool]) -> None:
        self._authority, self._clock, self._identity, self._down = authority, clock, identity, down
        self.asked: list[float] = []

    async def __call__(self, csr_der: bytes) -> IssuedCertificate:
        self.asked.append(self._clock.now())
        if self._down(self._clock.now()):
            raise ConnectionError("control plane is away")
        leaf = self._authority.sign(check_request(csr_der, self._identity), self._identity, DAY)
        return IssuedCertificate(
            leaf.chain_pem, self._authority.bundle_pem, leaf.not_before, leaf.not_after, leaf.serial
        )


async def run_until(renewer: Renewer, enough: Callable[[], bool]) -> None:
    task = asyncio.create_task(renewer.run())
    try:
        async with asyncio.timeout(10):
            while not enough():
                await asyncio.sleep(0)
                if task.done():
                    await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_loop_renews_at_half_life_with_new_keys(authority: Authority, clock, chat: Identity) -> None:
    got: list[WorkloadCertificate] = []
    start = clock.now()
    plane = Plane(authority, clock, chat, lambda now: False)
    renewer = Renewer(chat, plane, got.append, Rotation(source=random.Random(3)), MadeTime(clock))
    await run_until(renewer, lambda: len(got) >= 4)
    assert len({certificate.key.public_der() for certificate in got}) == len(got)
    assert plane.asked[0] == start
    gaps = [later - sooner for sooner, later in zip(plane.asked, plane.asked[1:], strict=False)]
    assert all(0.44 * DAY < gap < 0.56 * DAY for gap in gaps)
    assert renewer.state is RotationState.FRESH
    assert "BEGIN" not in repr(got[0].key)
    assert "PRIVATE" not in repr(got)


async def test_an_outage_is_survived_and_the_old_certificate_kept(authority: Authority, clock, chat: Identity) -> None:
    got: list[WorkloadCertificate] = []
    start = clock.now()
    plane = Plane(authority, clock, chat, lambda now: start + 1.0 < now < start + 0.8 * DAY)
    renewer = Renewer(chat, plane, got.append, Rotation(source=random.Random(3)), MadeTime(clock))
    await run_until(renewer, lambda: renewer.last_error != "")
    assert renewer.last_error == "control plane is away"
    assert renewer.state is RotationState.RETRYING
    await run_until(renewer, lambda: len(got) == 2)
    assert renewer.last_error == ""
    waits = [later - sooner for sooner, later in zip(plane.asked[1:], plane.asked[2:], strict=False)]
    assert max(waits) <= 60.0
    assert clock.now() < start + 0.8 * DAY + 120.0, "renewed soon after the outage, long before expiry"


async def test_renew_now_does_not_wait(authority: Authority, clock, chat: Identity) -> None:
    got: list[WorkloadCertificate] = []

    class StandingTime(MadeTime):
        async def sleep(self, seconds: float) -> None:
            await asyncio.Event().wait()

    plane = Plane(authority, clock, chat, lambda now: False)
    renewer = Renewer(chat, plane, got.append, Rotation(), StandingTime(clock))

    def enough() -> bool:
        if len(got) in (1, 2):
            renewer.renew_now()
        return len(got) >= 3

    await run_until(renewer, enough)
    assert set(plane.asked) == {clock.now()}


async def test_a_hanging_control_plane_is_given_up(clock, chat: Identity) -> None:
    async def hang(csr_der: bytes) -> IssuedCertificate:
        return await asyncio.Event().wait()  # type: ignore[return-value]

    renewer = Renewer(chat, hang, pytest.fail, Rotation(RotationRules(attempt=0.02)), MadeTime(clock))
    await run_until(renewer, lambda: renewer.rotation.failures >= 2)
    assert renewer.last_error == "TimeoutError"


@pytest.mark.parametrize("case", ["key", "identity", "garbage", "bundle"])
def test_an_answer_that_does_not_fit_is_not_used(authority: Authority, chat: Identity, case: str) -> None:
    key, other = PrivateKey.generate(), Identity("cluster.local", "default", "other")
    named = other if case == "identity" else chat
    asked = PrivateKey.generate() if case == "key" else key
    leaf = authority.sign(check_request(asked.csr(named), named), named, 60.0)
    chain = "junk" if case == "garbage" else leaf.chain_pem
    bundle = "" if case == "bundle" else authority.bundle_pem
    with pytest.raises(MismatchError):
        accept(key, chat, IssuedCertificate(chain, bundle, leaf.not_before, leaf.not_after, leaf.serial))
    good = authority.sign(check_request(key.csr(chat), chat), chat, 60.0)
    answer = IssuedCertificate(good.chain_pem, authority.bundle_pem, good.not_before, good.not_after, good.serial)
    assert accept(key, chat, answer).serial == good.serial
