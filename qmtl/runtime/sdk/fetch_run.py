"""One fetch on its way: its sources, then conformance, artifact, gates, cache."""

import asyncio
from typing import NamedTuple

import msgspec
import polars as pl
import structlog

from qmtl.core.ranges import Range, clip_ranges, intersect_ranges, measure_ranges, merge_ranges
from qmtl.metrics import SEAMLESS
from qmtl.runtime.sdk.availability import DataAvailabilityStrategy as Strategy
from qmtl.runtime.sdk.fetch_plan import FetchWindow, MissingReason, explain_missing, left_after, runs_of
from qmtl.runtime.sdk.fetch_result import FetchMetadata, SeamlessFetchResult
from qmtl.runtime.sdk.fetch_sources import FetchSources, Stages
from qmtl.runtime.sdk.fetch_verdict import Verdict, say_missing
from qmtl.runtime.sdk.fingerprint import fingerprint
from qmtl.runtime.sdk.frame_cache import CachedPiece, cut_frame
from qmtl.runtime.sdk.history import BackfillError, SeamlessUnavailableError
from qmtl.runtime.sdk.history_frame import frame_schema

_MOST_PIECES = 16
_log = structlog.get_logger("qmtl.seamless")


class Demands(NamedTuple):
    """What one request asks for beside its range."""

    world_id: str | None
    domain: str | None
    min_coverage: float | None
    max_lag_seconds: float | None


class FetchRun:
    """Answers one request."""

    def __init__(self, stages: Stages, window: FetchWindow, demands: Demands) -> None:
        self._s = stages
        self._w = window
        self._key = window.key
        self._demands = demands
        self._labels = SEAMLESS.series(*self._key)
        self.metadata = FetchMetadata(
            node_id=self._key.node_id,
            interval=self._key.interval,
            requested_range=(window.start, window.end),
            world_id=demands.world_id,
            execution_domain=demands.domain,
        )
        self._verdict = Verdict(stages.policy, self.metadata)
        self._sources = FetchSources(stages, window, self._verdict, demands.world_id)
        self._present: list[Range] = []

    async def run(self) -> SeamlessFetchResult:
        """Go through every stage; raises what the strategy, the policy or the rows demand."""
        frame = self._conform(await self._sources.gather())
        self._describe(frame)
        self._require()
        await self._publish(frame)
        self._judge()
        self._keep(frame)
        return SeamlessFetchResult(self._with_forming(frame), self.metadata)

    def _conform(self, frame: pl.DataFrame) -> pl.DataFrame:
        schema = "ohlcv" if self._sources.is_bars else "trades"
        frame, report = self._s.conformance.normalize(
            frame, schema=schema, interval=self._key.interval, offset=self._s.grid_offset_s
        )
        told = self.metadata
        told.conformance_flags = dict(report.flags_counts)
        told.conformance_warnings = list(report.warnings)
        for flag, count in report.flags_counts.items():
            SEAMLESS.conformance_flag.labels(*self._labels, flag).inc(count)
        if report.warnings:
            SEAMLESS.conformance_warning.labels(*self._labels).inc(len(report.warnings))
        return frame

    def _with_forming(self, frame: pl.DataFrame) -> pl.DataFrame:
        if self._sources.forming is None:
            return frame
        self.metadata.forming_ts = self._sources.forming["ts"]
        self.metadata.rows += 1
        self.metadata.sources["live"] = self.metadata.sources.get("live", 0) + 1
        return pl.concat([frame, pl.DataFrame([self._sources.forming], schema=frame_schema(self._key))])

    def _describe(self, frame: pl.DataFrame) -> None:
        """Say what is there, what is missing and why, and what may be relied on."""
        w, told = self._w, self.metadata
        stored = runs_of(frame["ts"], self._key.interval) if self._sources.is_bars else self._sources.covered
        extra = () if self._sources.is_bars else self._sources.provisional
        present = intersect_ranges(merge_ranges([*stored, *self._sources.empty, *extra]), w.closed)
        missing = left_after(w, present)
        rest: MissingReason = (
            "no_source" if self._s.filler is None or self._s.strategy is Strategy.FAIL_FAST else "pending"
        )
        told.rows = frame.height
        told.sources = dict(self._sources.rows)
        told.missing = explain_missing(missing, self._sources.causes, rest)
        told.confirmed_empty = list(self._sources.empty)
        if present:
            told.coverage_bounds = (present[0][0], present[-1][1])
        if w.closed:
            told.coverage_ratio = 1 - measure_ranges(missing) / (w.closed_until - w.first)
            newest = present[-1][1] if present else w.first
            told.staleness_ms = (w.closed_until - newest) * 1000
        young = min([w.young_from, *(start for start, _ in self._sources.provisional)])
        told.stable_until = max(young, w.first) if young < w.last else w.end
        self._present = present
        SEAMLESS.coverage_ratio.labels(*self._labels).set(told.coverage_ratio)
        SEAMLESS.live_staleness.labels(*self._labels).set(told.staleness_ms / 1000)

    def _require(self) -> None:
        """Raise where the strategy takes no incomplete answer."""
        told, errors, strategy = self.metadata, self._sources.errors, self._s.strategy
        if errors:
            told.backfill_error = str(errors[0])
        if not told.missing or self._s.partial_ok or strategy is Strategy.PARTIAL_FILL:
            return
        if errors:
            message = f"{told.node_id}: backfill failed: {errors[0]}"
            raise BackfillError(message, errors) from errors[0]
        cannot_fill = strategy is Strategy.AUTO_BACKFILL and self._s.filler is None
        if strategy is Strategy.FAIL_FAST or cannot_fill:
            raise SeamlessUnavailableError(say_missing(self._key.node_id, told.missing), told.missing)

    def _judge(self) -> None:
        told, demands = self.metadata, self._demands
        self._verdict.judge(
            demands.domain,
            measure_ranges(self._w.closed) * 1000,
            min_coverage=demands.min_coverage,
            max_lag_seconds=demands.max_lag_seconds,
        )
        if told.downgraded:
            SEAMLESS.partial_fill_returns.labels(*self._labels, told.downgrade_reason).inc()
        if told.hold:
            SEAMLESS.domain_gate_holds.labels(*self._labels, told.downgrade_reason).inc()

    async def _publish(self, frame: pl.DataFrame) -> None:
        """Name the stable rows, and publish them where nothing of them is missing."""
        told = self.metadata
        end = min(told.stable_until, self._w.end)
        stable = cut_frame(frame, self._w.first, end)
        is_whole = not clip_ranges([(s, e) for s, e, _ in told.missing], self._w.first, end)
        if self._s.registrar is not None and is_whole and stable.height and await self._register(stable):
            return
        if self._s.has_fingerprint:
            told.dataset_fingerprint = fingerprint(
                stable,
                node_id=told.node_id,
                interval=told.interval,
                start=min(self._w.start, end),
                end=end,
            )

    async def _register(self, stable: pl.DataFrame) -> bool:
        """Publish an artifact; the answer stands without one, and the log says why there is none."""
        told = self.metadata
        # The manifest lists what is covered as ranges.
        described = {**msgspec.structs.asdict(told), "coverage_bounds": self._present}
        try:
            published = await asyncio.to_thread(
                self._s.registrar.publish,
                stable,
                described,
                stabilization_bars=self._s.stabilization_bars,
            )
        except OSError as error:
            _log.error(
                "seamless.artifact.failed",
                node_id=told.node_id,
                reason=str(error),
                action="check the disk of seamless.artifact_dir",
            )
            return False
        told.dataset_fingerprint, told.as_of = published.fingerprint, published.as_of
        told.manifest_uri = published.manifest_uri
        return True

    def _keep(self, frame: pl.DataFrame) -> None:
        """Cache what is stable and whole."""
        cache, told = self._s.cache, self.metadata
        if cache is None or told.sources.keys() <= {"cache"}:
            return
        whole = clip_ranges(self._present, self._w.first, min(told.stable_until, self._w.closed_until))
        for start, end in whole[-_MOST_PIECES:]:
            piece = CachedPiece(
                start, end, cut_frame(frame, start, end), clip_ranges(self._sources.empty, start, end)
            )
            cache.put(self._key, piece, self._s.clock.real_ms())
