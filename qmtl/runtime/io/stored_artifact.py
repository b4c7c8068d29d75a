"""An artifact of what a store holds, holes included."""

import asyncio
from pathlib import Path

from qmtl.core.ranges import Range, clip_ranges, merge_ranges
from qmtl.engine.clock import SystemClock
from qmtl.engine.ports import Clock
from qmtl.runtime.io.artifacts import ArtifactRegistrar, Published
from qmtl.runtime.sdk.conformance import ConformancePipeline
from qmtl.runtime.sdk.fetch_plan import empty_ranges, plan_window
from qmtl.runtime.sdk.history import HistoryStore, SeriesKey


async def publish_stored(
    store: HistoryStore,
    key: SeriesKey,
    span: Range,
    base_dir: Path,
    *,
    conformance: ConformancePipeline,
    stabilization_bars: int,
    clock: Clock | None = None,
) -> Published:
    """Publish the stable rows stored in a range, with what is covered and what is confirmed empty."""
    clock = clock or SystemClock()
    window = plan_window(key, *span, now_s=clock.now_ms() // 1000, stabilization_bars=stabilization_bars)
    spans = await store.coverage(key)
    kind = key.named.kind
    rows, report = conformance.normalize(
        await store.read(key, *span), schema=kind, interval=key.interval if kind == "ohlcv" else None
    )
    metadata = {
        "node_id": key.node_id,
        "interval": key.interval,
        "requested_range": span,
        "coverage_bounds": clip_ranges(merge_ranges([(one.start, one.end) for one in spans]), *span),
        "confirmed_empty": empty_ranges(spans),
        "stable_until": min(span[1], window.young_from),
        "conformance_flags": dict(report.flags_counts),
        "conformance_warnings": report.warnings,
    }
    registrar = ArtifactRegistrar(base_dir, clock=clock)
    return await asyncio.to_thread(registrar.publish, rows, metadata, stabilization_bars=stabilization_bars)
