"""Budgets of the SLA policy: what waits longer is cut off, and the answer says so."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from qmtl.runtime.sdk.history import SeamlessSLAExceeded
from qmtl.runtime.sdk.seamless_data_provider import BackfillConfig, SeamlessDataProvider
from qmtl.runtime.sdk.sla import SLAPolicy
from tests.runtime.sdk.history_rig import (
    SERIES,
    T0,
    MemoryStore,
    ScriptedFeed,
    ScriptedFetcher,
    clock_at,
)

DAY = 86_400
MODES = ("fail_fast", "partial_fill", "hold")
WINDOW = (T0, T0 + 6000)


class Slow:
    """A provider of which one phase takes three seconds; the bars end just now."""

    def __init__(self, phase: str, policy: SLAPolicy, **options: Any) -> None:
        self.clock = clock_at(T0 + 6002)
        self.store = MemoryStore(self.clock)
        self.fetcher = ScriptedFetcher(range(T0, T0 + 6000, 60), clock=self.clock)
        feed = None
        if phase == "storage_wait":
            self.store.delay_s = 3
        elif phase == "live_wait":
            self.fetcher.has = self.fetcher.has[:-1]
            feed = ScriptedFeed(self.clock, [])
        elif phase in {"backfill_wait", "total"}:
            self.fetcher.delay_s = 3
        self.provider = SeamlessDataProvider(
            store=self.store,
            fetcher=self.fetcher,
            live_feed=feed,
            clock=self.clock,
            sla=policy,
            **options,
        )

    async def fetch(self) -> tuple[Any, float]:
        """Return the answer, or what was raised, and after how many milliseconds."""
        began = self.clock.real_ms()
        task = asyncio.ensure_future(self.provider.fetch(*WINDOW, **SERIES))
        while not task.done():
            await self.clock.advance(0.01)
        return task.exception() or task.result(), self.clock.real_ms() - began


BUDGETS = {
    "storage_wait": {"max_wait_storage_ms": 50},
    "backfill_wait": {"max_wait_backfill_ms": 50},
    "live_wait": {"max_wait_live_ms": 50},
    "total": {"total_deadline_ms": 50},
}
EMPTY_REASON = {"storage_wait": "budget", "backfill_wait": "budget", "total": "budget"}


@pytest.mark.parametrize("phase", BUDGETS)
@pytest.mark.parametrize("mode", MODES)
async def test_20_a_phase_is_answered_at_its_budget(phase: str, mode: str) -> None:
    """Acceptance 20 and 21: 50 ms, a store of 3 s; likewise every phase and mode."""
    rig = Slow(phase, SLAPolicy(**BUDGETS[phase], on_violation=mode))  # type: ignore[arg-type]
    answer, took_ms = await rig.fetch()
    assert 50 <= took_ms <= 70
    if mode == "fail_fast":
        assert isinstance(answer, SeamlessSLAExceeded)
        assert (answer.phase, answer.node_id) == (phase, SERIES["node_id"])
        assert answer.budget_ms == 50
        assert answer.elapsed_ms >= 50
    else:
        told = answer.metadata
        assert told.downgraded
        assert (told.downgrade_mode, told.downgrade_reason) == (mode, "sla_violation")
        assert told.hold == (mode == "hold")
        assert told.sla_violation["phase"] == phase
        assert {reason for _, _, reason in told.missing} == {"budget"}
    await rig.provider.aclose()


async def test_20_a_storage_timeout_starts_no_backfill() -> None:
    policy = SLAPolicy(max_wait_storage_ms=50, on_violation="partial_fill")  # type: ignore[arg-type]
    rig = Slow("storage_wait", policy)
    answer, _ = await rig.fetch()
    assert rig.fetcher.asked == []
    assert answer.metadata.missing == [(*WINDOW, "budget")]


async def test_21_a_downgrade_warns_with_its_text() -> None:
    """Acceptance 21 and 41."""
    rig = Slow("backfill_wait", SLAPolicy(max_wait_backfill_ms=50, on_violation="partial_fill"))  # type: ignore[arg-type]
    with capture_logs() as logs:
        await rig.fetch()
    (warning,) = [entry for entry in logs if entry["event"] == "seamless.sla.downgrade"]
    assert warning["log_level"] == "warning"
    assert warning["message"] == "backfill_wait used 50 of 50 ms; use AUTO_BACKFILL or a shorter range"
    await rig.provider.aclose()


async def test_a_backfill_that_was_cut_off_goes_on() -> None:
    policy = SLAPolicy(max_wait_backfill_ms=50, on_violation="partial_fill")  # type: ignore[arg-type]
    rig = Slow("backfill_wait", policy)
    answer, _ = await rig.fetch()
    assert answer.metadata.rows == 0
    await rig.clock.advance(4)
    answer, _ = await rig.fetch()
    assert answer.metadata.rows == 100
    assert len(rig.fetcher.asked) == 1
    await rig.provider.aclose()


async def test_in_sync_mode_it_ends_with_whoever_waits() -> None:
    policy = SLAPolicy(max_wait_backfill_ms=50, on_violation="partial_fill")  # type: ignore[arg-type]
    rig = Slow("backfill_wait", policy, backfill_config=BackfillConfig(mode="sync"))
    await rig.fetch()
    await rig.clock.advance(200)
    assert len(rig.fetcher.asked) == 1
    assert rig.store.rows == {}


async def test_auto_backfill_knows_no_budget_but_the_stores() -> None:
    policy = SLAPolicy(
        max_wait_storage_ms=5_000,
        max_wait_backfill_ms=50,
        max_wait_live_ms=50,
        total_deadline_ms=50,
        max_sync_gap_bars=1,
    )
    rig = Slow("backfill_wait", policy, strategy="auto_backfill")
    answer, took_ms = await rig.fetch()
    assert took_ms >= 3000
    assert (answer.metadata.rows, answer.metadata.downgraded) == (100, False)


@pytest.mark.parametrize("mode", MODES)
async def test_20_a_gap_too_long_to_wait_for_is_filled_behind(mode: str) -> None:
    rig = Slow("", SLAPolicy(max_sync_gap_bars=50, on_violation=mode))  # type: ignore[arg-type]
    answer, _ = await rig.fetch()
    if mode == "fail_fast":
        assert (answer.phase, answer.elapsed_ms, answer.budget_ms) == ("sync_gap", 6_000_000, 3_000_000)
    else:
        assert answer.metadata.missing == [(*WINDOW, "pending")]
        assert answer.metadata.hold == (mode == "hold")
    await rig.clock.advance(1)
    answer, _ = await rig.fetch()
    assert answer.metadata.rows == 100
    await rig.provider.aclose()


@pytest.mark.parametrize("mode", MODES)
async def test_21_thin_and_old_answers(mode: str) -> None:
    policy = SLAPolicy(min_coverage=0.98, max_lag_seconds=45, on_violation=mode)  # type: ignore[arg-type]
    rig = Slow("", policy)
    rig.fetcher.confirms = False
    rig.fetcher.has = rig.fetcher.has[:-1]
    answer, _ = await rig.fetch()
    if mode == "fail_fast":
        assert (answer.phase, answer.elapsed_ms, answer.budget_ms) == ("freshness", 60_000, 45_000)
    else:
        assert answer.metadata.downgrade_reason == "freshness_breach"
        assert answer.metadata.hold == (mode == "hold")
        assert answer.metadata.staleness_ms == 60_000
    rig = Slow("", policy)
    rig.fetcher.confirms = False
    del rig.fetcher.has[10:20]
    answer, _ = await rig.fetch()
    if mode == "fail_fast":
        assert answer.phase == "coverage"
        assert answer.elapsed_ms == pytest.approx(600_000)
        assert answer.budget_ms == pytest.approx(120_000)
    else:
        assert answer.metadata.downgrade_reason == "coverage_breach"
        assert answer.metadata.missing == [(T0 + 600, T0 + 1200, "pending")]
        assert answer.metadata.hold == (mode == "hold")


async def test_a_cancelled_fetch_leaves_nothing_behind() -> None:
    rig = Slow("storage_wait", SLAPolicy())
    task = asyncio.ensure_future(rig.provider.fetch(*WINDOW, **SERIES))
    await rig.clock.advance(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert others == set()
