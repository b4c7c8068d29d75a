"""The time one fetch may spend, phase by phase: what waits longer is cut off."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Literal, TypeVar

from qmtl.engine.ports import Clock
from qmtl.metrics import SEAMLESS
from qmtl.runtime.sdk.sla import SLAPolicy

T = TypeVar("T")
Phase = Literal["storage_wait", "backfill_wait", "live_wait", "total", "sync_gap"]
_LIMITS = {
    "storage_wait": "max_wait_storage_ms",
    "backfill_wait": "max_wait_backfill_ms",
    "live_wait": "max_wait_live_ms",
}


class PhaseExceededError(Exception):
    """A phase used up its budget; milliseconds."""

    def __init__(self, phase: Phase, elapsed_ms: float, budget_ms: float) -> None:
        super().__init__(f"{phase} used {elapsed_ms:.0f} of {budget_ms:.0f} ms")
        self.phase: Phase = phase
        self.elapsed_ms = elapsed_ms
        self.budget_ms = budget_ms


class FetchBudget:
    """The budgets of one fetch, counted from its construction in real time; `free` phases have none."""

    def __init__(self, policy: SLAPolicy, clock: Clock, node_id: str, free: frozenset[Phase]) -> None:
        self._policy = policy
        self._clock = clock
        self._node = SEAMLESS.node(node_id)
        self._free = free
        self._start_ms = clock.real_ms()

    @property
    def elapsed_ms(self) -> float:
        """Time since the fetch began."""
        return self._clock.real_ms() - self._start_ms

    def _limit(self, phase: Phase, least_ms: float | None) -> tuple[float | None, Phase]:
        """Return how long a phase may wait now, and whose budget that is."""
        own = None if phase in self._free else getattr(self._policy, _LIMITS[phase])
        own = least_ms if own is None else own
        total = None if "total" in self._free else self._policy.total_deadline_ms
        if total is not None:
            left = max(0.0, total - self.elapsed_ms)
            if own is None or left < own:
                return left, "total"
        return own, phase

    async def wait(self, phase: Phase, work: Coroutine[Any, Any, T], *, at_most_ms: float | None = None) -> T:
        """Return what `work` returns, or cancel it and raise PhaseExceededError when its time is up.

        `at_most_ms` stands in where the policy sets no budget.
        """
        limit_ms, owner = self._limit(phase, at_most_ms)
        began_ms = self._clock.real_ms()
        try:
            if limit_ms is None:
                return await work
            return await self._race(work, limit_ms, owner)
        finally:
            took_s = (self._clock.real_ms() - began_ms) / 1000
            SEAMLESS.sla_deadline.labels(self._node, phase).observe(took_s)

    async def _race(self, work: Coroutine[Any, Any, T], limit_ms: float, owner: Phase) -> T:
        task = asyncio.ensure_future(work)
        timer = asyncio.ensure_future(self._clock.sleep(limit_ms / 1000))
        try:
            await asyncio.wait({task, timer}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
        finally:
            timer.cancel()
            if not task.done():
                # Nobody waits for it any more, not even for its end: it may not hear of the cancellation.
                task.add_done_callback(_look_away)
                task.cancel()
        if owner == "total":
            raise PhaseExceededError("total", self.elapsed_ms, self._policy.total_deadline_ms or 0.0)
        raise PhaseExceededError(owner, limit_ms, limit_ms)

    def close(self) -> None:
        """Count the whole fetch."""
        SEAMLESS.sla_deadline.labels(self._node, "total").observe(self.elapsed_ms / 1000)


def _look_away(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled():
        _ = task.exception()
