"""Where the rows of one fetch come from: cache, storage, exchange, live feed, each for what is left."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl
import structlog

from qmtl.core.ranges import Range, clip_ranges, intersect_ranges, merge_ranges, subtract_ranges
from qmtl.engine.ports import Clock
from qmtl.metrics import SEAMLESS
from qmtl.runtime.sdk.availability import DataAvailabilityStrategy as Strategy
from qmtl.runtime.sdk.background_fill import BackgroundFill
from qmtl.runtime.sdk.conformance import ConformancePipeline
from qmtl.runtime.sdk.fetch_plan import (
    FetchWindow,
    MissingReason,
    covered_ranges,
    empty_ranges,
    left_after,
    provisional_ranges,
    runs_of,
    split_gaps,
)
from qmtl.runtime.sdk.fetch_verdict import Verdict
from qmtl.runtime.sdk.filled_range import Filled
from qmtl.runtime.sdk.frame_cache import FrameCache, cut_frame
from qmtl.runtime.sdk.gap_filler import GapFiller
from qmtl.runtime.sdk.history import CoverageSpan, FetchError, HistoryStore, StaleLeaseError
from qmtl.runtime.sdk.history_frame import frame_schema, order_rows
from qmtl.runtime.sdk.in_flight import Flight
from qmtl.runtime.sdk.live_stage import LiveCatch
from qmtl.runtime.sdk.live_tail import LiveTails
from qmtl.runtime.sdk.phase_budget import FetchBudget, Phase, PhaseExceededError
from qmtl.runtime.sdk.sla import SLAPolicy

LIVE_LIMIT_MS = 60_000.0
"""So long a live feed is listened to where no budget says otherwise."""
_UNHURRIED: frozenset[Phase] = frozenset({"backfill_wait", "live_wait", "sync_gap", "total"})
_log = structlog.get_logger("qmtl.seamless")


class Stages(NamedTuple):
    """What a provider's fetches go through; None where there is no such stage."""

    store: HistoryStore
    filler: GapFiller | None
    background: BackgroundFill | None
    live: LiveTails | None
    cache: FrameCache | None
    conformance: ConformancePipeline
    registrar: Any
    policy: SLAPolicy
    strategy: Strategy
    partial_ok: bool
    continues: bool
    stabilization_bars: int
    has_fingerprint: bool
    grid_offset_s: int | None
    clock: Clock


class FetchSources:
    """Gathers the rows of one window; each source gets only what those before it left."""

    def __init__(
        self, stages: Stages, window: FetchWindow, verdict: Verdict, world_id: str | None = None
    ) -> None:
        self._s = stages
        self._w = window
        self._key = window.key
        self._verdict = verdict
        self._world_id = world_id
        self.is_bars = window.key.node_id.startswith("ohlcv:")
        self.covered: list[Range] = []
        self.empty: list[Range] = []
        self.provisional: list[Range] = []
        self.causes: list[tuple[Sequence[Range], MissingReason]] = []
        self.errors: list[BaseException] = []
        self.rows: dict[str, int] = {}
        self.forming: dict[str, Any] | None = None
        self._frames: list[pl.DataFrame] = []
        self._has_overlaps = False
        free = _UNHURRIED if stages.strategy is Strategy.AUTO_BACKFILL else frozenset()
        self._budget = FetchBudget(stages.policy, stages.clock, self._key.node_id, free)

    async def gather(self) -> pl.DataFrame:
        """Return what there is, ascending; why the rest is not there is in `causes` and `errors`."""
        try:
            self._from_cache()
            if await self._from_storage():
                await self._from_exchange()
                await self._from_live()
        finally:
            self._budget.close()
        return self._assemble()

    def _take(
        self, stage: str, frame: pl.DataFrame, covered: Sequence[Range], empty: Sequence[Range]
    ) -> None:
        self._frames.append(frame)
        self.covered = merge_ranges([*self.covered, *covered, *empty])
        self.empty = merge_ranges([*self.empty, *empty])
        if frame.height:
            self.rows[stage] = self.rows.get(stage, 0) + frame.height

    def _from_cache(self) -> None:
        cache, w = self._s.cache, self._w
        if cache is None or not w.closed:
            return
        pieces = cache.find(self._key, w.first, w.closed_until, self._s.clock.real_ms())
        (SEAMLESS.cache_hit if pieces else SEAMLESS.cache_miss).labels(*SEAMLESS.series(*self._key)).inc()
        for piece in pieces:
            self._take("cache", piece.frame, [(piece.start, piece.end)], piece.empty)

    async def _from_storage(self) -> bool:
        """Return false when the store did not answer in time: then nothing else is asked."""
        left = left_after(self._w, self.covered)
        if not left:
            return True
        try:
            spans, frame = await self._budget.wait("storage_wait", self._read_store(left))
        except PhaseExceededError as error:
            self.causes.append((left, "budget"))
            self._verdict.violate(error)
            return False
        covered = covered_ranges(spans, self._w.young_from)
        self.provisional = intersect_ranges(provisional_ranges(spans), left)
        for start, end in left:
            part = cut_frame(frame, start, end) if frame is not None else None
            if part is not None and part.height:
                self._take("storage", part, (), ())
        empty = intersect_ranges(empty_ranges(spans), left)
        self.covered = merge_ranges([*self.covered, *intersect_ranges(covered, left)])
        self.empty = merge_ranges([*self.empty, *empty])
        return True

    async def _read_store(self, left: list[Range]) -> tuple[list[CoverageSpan], pl.DataFrame | None]:
        # Rows are durable before coverage says so: read in this order, what is covered is there.
        spans = await self._s.store.coverage(self._key, now=self._s.clock.now_ms() // 1000)
        start, end = left[0][0], left[-1][1]
        if any(s.start < end and start < s.end and s.kind in {"rows", "young"} for s in spans):
            return spans, await self._s.store.read(self._key, start, end)
        return spans, None

    async def _from_exchange(self) -> None:
        gaps = left_after(self._w, self.covered)
        filler, background = self._s.filler, self._s.background
        if not gaps or self._s.strategy is Strategy.FAIL_FAST or filler is None or background is None:
            return
        if self._s.strategy is Strategy.PARTIAL_FILL:
            self._leave_to(background, gaps)
            self._verdict.downgrade("partial_fill", "backfill_pending")
            if (error := background.errors.get(self._key)) is not None:
                self.errors.append(error)
            return
        most = self._s.policy.max_sync_gap_bars if self._s.strategy is Strategy.SEAMLESS else None
        gaps, long = split_gaps(gaps, self._key.interval, most)
        if long:
            if self._s.continues:
                self._leave_to(background, long)
            self.causes.append((long, "budget"))
            longest_ms = max(end - start for start, end in long) * 1000.0
            allowed_ms = (most or 0) * self._key.interval * 1000.0
            self._verdict.violate(PhaseExceededError("sync_gap", longest_ms, allowed_ms))
        flights = filler.start(self._key, gaps, self._world_id)
        try:
            await self._budget.wait("backfill_wait", filler.wait(flights))
        except PhaseExceededError as error:
            late = merge_ranges([one.span for one in flights if not one.task.done()])
            self.causes.append((late, "budget"))
            if self._s.continues:
                background.want(self._key, late)
            self._verdict.violate(error)
        for flight in flights:
            self._land(flight, gaps)

    def _leave_to(self, background: BackgroundFill, gaps: list[Range]) -> None:
        background.want(self._key, gaps)
        self.causes.append((gaps, "pending"))

    def _land(self, flight: Flight[Filled], gaps: list[Range]) -> None:
        """Take what a flight brought of `gaps`, or note why it brought nothing."""
        if not flight.task.done() or flight.task.cancelled():
            return
        error = flight.error
        if error is None:
            filled = flight.task.result()
            self._has_overlaps = True
            for start, end in intersect_ranges([flight.span], gaps):
                rows = cut_frame(filled.frame, start, end)
                covered = clip_ranges(filled.covered, start, end)
                self._take("backfill", rows, covered, clip_ranges(filled.empty, start, end))
            young = intersect_ranges(filled.young, gaps)
            self.provisional = merge_ranges([*subtract_ranges(self.provisional, filled.covered), *young])
        elif isinstance(error, FetchError | StaleLeaseError):
            self.errors.append(error)
            self.causes.append(([flight.span], "failed"))
        else:
            raise error

    async def _from_live(self) -> None:
        live, w = self._s.live, self._w
        if live is None or not self.is_bars:
            return
        known = merge_ranges([*self.covered, *self.provisional])
        wanted = subtract_ranges(w.recent, known)
        if not wanted and not (live.emits_forming and w.forming is not None):
            return
        catch = LiveCatch(w, wanted, wants_forming=live.emits_forming)
        try:
            await self._budget.wait("live_wait", catch.run(live.of(self._key)), at_most_ms=LIVE_LIMIT_MS)
        except FetchError as error:
            self.causes.append((wanted, "failed"))
            _log.warning("seamless.live.failed", node_id=self._key.node_id, reason=str(error))
        except PhaseExceededError as error:
            lacking = subtract_ranges(wanted, [(ts, ts + self._key.interval) for ts in sorted(catch.closed)])
            if lacking and self._s.strategy is not Strategy.AUTO_BACKFILL:
                self.causes.append((lacking, "budget"))
                self._verdict.violate(error)
        self.forming = catch.forming
        if catch.closed:
            rows = [catch.closed[ts] for ts in sorted(catch.closed)]
            frame = pl.DataFrame(rows, schema=frame_schema(self._key))
            covered = runs_of(frame["ts"], self._key.interval)
            self._has_overlaps = True
            self._take("live", frame, covered, ())
            # A feed's rows are read once more before they count as final.
            self.provisional = merge_ranges([*self.provisional, *covered])
            await self._keep_live(frame, covered)

    async def _keep_live(self, frame: pl.DataFrame, covered: list[Range]) -> None:
        """Store what the feed brought, if the store takes it in time; else it is fetched another day."""
        if self._s.filler is None:
            return
        work = self._s.filler.keep(self._key, frame, covered, min(covered[0][0], self._w.young_from))
        try:
            await self._budget.wait("live_wait", work, at_most_ms=LIVE_LIMIT_MS)
        except PhaseExceededError:
            _log.info("seamless.live.not_stored", node_id=self._key.node_id, rows=frame.height)

    # --- rows -------------------------------------------------------------------------------------

    def _assemble(self) -> pl.DataFrame:
        parts = [frame for frame in self._frames if frame.height]
        if not parts:
            return pl.DataFrame(schema=frame_schema(self._key))
        if len(parts) == 1:
            return parts[0]
        if self._has_overlaps:
            frame = order_rows(self._key, pl.concat(parts))
            # What replaced a stored row is counted where it came from.
            self.rows["storage"] = self.rows.get("storage", 0) - sum(self.rows.values()) + frame.height
            self.rows = {stage: count for stage, count in self.rows.items() if count}
            return frame
        return pl.concat(sorted(parts, key=lambda part: int(part["ts"][0])))
