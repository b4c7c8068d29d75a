"""What a fetch gives: a frame that knows where its rows came from."""

from collections.abc import Iterator
from typing import Any

import msgspec
import polars as pl

from qmtl.core.ranges import Range
from qmtl.runtime.sdk.fetch_plan import MissingReason


class FetchMetadata(msgspec.Struct, kw_only=True):
    """Where the rows of an answer came from, what is missing and why, and what may be relied on.

    Ranges are [start, end) in seconds. `coverage_ratio` is (rows + confirmed empty) / closed cells;
    `staleness_ms` from the newest covered end to the newest closed cell's end. Rows from `stable_until` on
    may still change, and `dataset_fingerprint` leaves them out. `sources` counts rows by stage. A `hold`
    answer must not reach a strategy.
    """

    node_id: str
    interval: int
    requested_range: Range
    rows: int = 0
    coverage_bounds: Range | None = None
    missing: list[tuple[int, int, MissingReason]] = []
    confirmed_empty: list[Range] = []
    coverage_ratio: float = 1.0
    staleness_ms: int = 0
    stable_until: int = 0
    forming_ts: int | None = None
    sources: dict[str, int] = {}
    conformance_flags: dict[str, int] = {}
    conformance_warnings: list[str] = []
    conformance_version: str = "v2"
    dataset_fingerprint: str | None = None
    as_of: int | None = None
    requested_as_of: int | None = None
    manifest_uri: str | None = None
    reproducible: bool = False
    downgraded: bool = False
    downgrade_mode: str | None = None
    downgrade_reason: str | None = None
    hold: bool = False
    sla_violation: dict[str, Any] | None = None
    backfill_error: str | None = None
    world_id: str | None = None
    execution_domain: str | None = None


class SeamlessFetchResult:
    """A frame with `metadata`; everything else is the frame's."""

    __slots__ = ("frame", "metadata")

    def __init__(self, frame: pl.DataFrame, metadata: FetchMetadata) -> None:
        self.frame = frame
        self.metadata = metadata

    def __getattr__(self, name: str) -> Any:
        if name in SeamlessFetchResult.__slots__:
            raise AttributeError(name)
        return getattr(self.frame, name)

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, item: Any) -> Any:
        return self.frame[item]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.frame)

    def __contains__(self, name: str) -> bool:
        return name in self.frame

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.frame.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        return repr(self.frame)
