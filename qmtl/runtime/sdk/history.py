"""History as strategies, stores and providers speak of it: keys, coverage, reports, and what can go wrong.

Times are whole epoch seconds in UTC and name the opening of a bar; ranges are [start, end). Frames are polars
with the columns of `BAR_COLUMNS` or `TRADE_COLUMNS`, strictly ascending.
"""

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from qmtl.core.ranges import Range
from qmtl.runtime.sdk.ohlcv_nodeid import NodeId, parse_node_id

if TYPE_CHECKING:
    import polars as pl

BAR_COLUMNS: tuple[tuple[str, str], ...] = (
    ("ts", "i64"),
    ("open", "f64"),
    ("high", "f64"),
    ("low", "f64"),
    ("close", "f64"),
    ("volume", "f64"),
)
TRADE_COLUMNS: tuple[tuple[str, str], ...] = (
    ("ts", "i64"),
    ("ts_ms", "i64"),
    ("id", "str"),
    ("price", "f64"),
    ("amount", "f64"),
    ("side", "str"),
)
CLOSE_GRACE_S = 2
"""A cell counts as closed so many seconds after its end."""
_WEEK_S = 604_800
_MONDAY_S = 345_600

CoverageKind = Literal["rows", "young", "empty", "empty_24h"]
"""Why a range needs no fetch: stored; stored but still changing; confirmed empty for good, or for a day."""


Environment = Literal["production", "test"]
"""Whose rows these are: the exchange's own hosts', or anything else's."""


class Endpoint(NamedTuple):
    """Where rows come from: `host_port` names a test venue's part of the store, such as `127.0.0.1_8610`."""

    environment: Environment
    host_port: str


def grid_offset(interval: int) -> int:
    """Return where the grid of `interval` seconds begins: weeks on a Monday, everything else at the epoch."""
    return _MONDAY_S if interval == _WEEK_S else 0


class SeriesKey(NamedTuple):
    """One stored series: its node id, and the length of a cell in seconds."""

    node_id: str
    interval: int

    @property
    def named(self) -> NodeId:
        """The parts of the node id; NodeIdError when it is not canonical."""
        return parse_node_id(self.node_id)


class CoverageSpan(NamedTuple):
    """A range of a series that needs no fetch, and why."""

    start: int
    end: int
    kind: CoverageKind


class EmptySpan(NamedTuple):
    """A range in which the exchange has nothing: for good (the same answer held a later bar) or for a day."""

    start: int
    end: int
    permanent: bool


class FetchReport(NamedTuple):
    """What one fetch brought: rows, ranges confirmed empty, and how many requests it took."""

    frame: "pl.DataFrame"
    confirmed_empty: list[EmptySpan]
    requests: int


class HistoryProvider(Protocol):
    """What a StreamInput needs of whoever has history."""

    def bind_stream(self, stream: Any) -> None:
        """Take note of a stream, so that its node id is known; NodeIdError when it cannot be told."""

    def fetch(self, start: int, end: int, *, node_id: str, interval: int) -> Awaitable[Any]:
        """Return the rows of [start, end)."""

    def coverage(self, *, node_id: str, interval: int) -> Awaitable[list[Range]]:
        """Return the ranges that need no fetch, sorted and disjoint."""

    def ensure_range(self, start: int, end: int, *, node_id: str, interval: int) -> Awaitable[None]:
        """Return once nothing of [start, end) is missing; SeamlessUnavailableError when that cannot be."""

    def fill_missing(self, start: int, end: int, *, node_id: str, interval: int) -> Awaitable[None]:
        """See `ensure_range`."""


class HistoryStore(Protocol):
    """Where rows are kept, with what is covered; one contract suite runs against every implementation.

    Rows become durable before coverage says so. A write is an upsert by (key, ts[, id]), the last one wins.
    `environment` is assigned by whoever opens the store, before the first write, which records it; a write
    of another one than recorded raises StoreEnvironmentError, None takes the one that is recorded.
    """

    environment: Environment | None

    async def read(self, key: SeriesKey, start: int, end: int) -> "pl.DataFrame":
        """Return the rows with start <= ts < end, ascending; an empty frame keeps the schema."""

    async def write(
        self,
        key: SeriesKey,
        frame: "pl.DataFrame",
        *,
        covered: Sequence[Range],
        provisional: bool = False,
        fence: int | None = None,
    ) -> int:
        """Store rows and mark `covered` (as `young` when provisional); return rows written.

        StaleFenceError when `fence` is lower than one seen for an overlapping range.
        """

    async def mark_empty(self, key: SeriesKey, ranges: Sequence[Range], *, permanent: bool) -> None:
        """Mark ranges as confirmed empty."""

    async def coverage(self, key: SeriesKey, *, now: int | None = None) -> list[CoverageSpan]:
        """Return the spans that need no fetch, sorted and disjoint; `now` ends an `empty_24h` after a day."""

    async def aclose(self) -> None:
        """Release everything."""


# --- what can go wrong: fetching ------------------------------------------------------------------


class FetchError(RuntimeError):
    """An exchange did not give what was asked; base of the fetch errors."""

    def __init__(
        self,
        message: str,
        *,
        exchange: str = "",
        symbol: str = "",
        window: Range | None = None,
        attempts: int = 1,
    ) -> None:
        super().__init__(message)
        self.exchange = exchange
        self.symbol = symbol
        self.window = window
        self.attempts = attempts


class RetryableFetchError(FetchError):
    """Network, time-out, 5xx or maintenance: resent by the fetcher, and still failing."""


class RateLimitedError(RetryableFetchError):
    """429 or 418; `retry_after_s` is what the exchange asked for, where it did."""

    def __init__(self, message: str, *, retry_after_s: float | None = None, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.retry_after_s = retry_after_s


class FatalFetchError(FetchError):
    """Bad symbol or request, refused keys, not supported: asking again cannot help."""


class InvalidPayloadError(FatalFetchError):
    """A row of the exchange's answer is malformed."""


# --- what can go wrong: stores --------------------------------------------------------------------


class StoreError(RuntimeError):
    """A store could not do what was asked; nothing was changed."""


class StaleFenceError(StoreError):
    """A writer whose lease was taken over came back."""


class StoreEnvironmentError(StoreError):
    """Rows of a test venue and of the real exchange never meet in one store."""


class StoreBusyError(StoreError):
    """Another process kept the store's writing lock for 30 s."""


class StoreSchemaError(StoreError):
    """A table is not shaped as it must be; the message holds the statement that mends it."""


class InvalidIdentifierError(StoreError, ValueError):
    """A table or column name is not an identifier."""


class WalLagError(StoreError):
    """QuestDB did not apply a write in time."""


class WalSuspendedError(StoreError):
    """QuestDB suspended the table's WAL."""


class QuestDBConnectionError(StoreError, ConnectionError):
    """QuestDB cannot be reached; the message says where and why."""


# --- what can go wrong: providers -----------------------------------------------------------------


class SeamlessError(RuntimeError):
    """The provider cannot answer as asked; base of its errors."""


class SeamlessUnavailableError(SeamlessError):
    """Something of the range is missing; `missing` holds (start, end, reason)."""

    def __init__(self, message: str, missing: Sequence[tuple[int, int, str]] = ()) -> None:
        super().__init__(message)
        self.missing = list(missing)


class SeamlessSLAExceeded(SeamlessError):  # noqa: N818 - published name
    """A budget of the SLA policy was used up, or coverage or lag broke it."""

    def __init__(self, phase: str, *, node_id: str, elapsed_ms: float, budget_ms: float) -> None:
        super().__init__(f"{node_id}: {phase} used {elapsed_ms:.0f} of {budget_ms:.0f} ms")
        self.phase = phase
        self.node_id = node_id
        self.elapsed_ms = elapsed_ms
        self.budget_ms = budget_ms


class SeamlessDomainPolicyError(SeamlessError):
    """The execution domain forbids the request as it is."""


class BackfillError(SeamlessError):
    """A backfill failed; `causes` are the fetch errors."""

    def __init__(self, message: str, causes: Sequence[BaseException] = ()) -> None:
        super().__init__(message)
        self.causes = list(causes)


class StaleLeaseError(SeamlessError):
    """A lease ran out or was taken over before its work was done."""


class UnknownLeaseError(StaleLeaseError):
    """No lease has that token, or it ended too long ago to be remembered."""


class CoordinatorRefusedError(SeamlessError):
    """The coordinator answered and said no: token, role or request; asking again cannot help."""


class ArtifactNotFoundError(SeamlessError):
    """No artifact of that age covers the range."""


class ArtifactCorruptError(SeamlessError):
    """An artifact's bytes are not those its name says."""
