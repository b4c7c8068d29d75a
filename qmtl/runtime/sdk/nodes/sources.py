"""Where rows enter a strategy."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import structlog

from qmtl.engine.clock import SystemClock
from qmtl.engine.intents import symbol_key
from qmtl.engine.ports import Clock
from qmtl.runtime.sdk.history import (
    CLOSE_GRACE_S,
    SeamlessDomainPolicyError,
    SeamlessUnavailableError,
    grid_offset,
)
from qmtl.runtime.sdk.nodes.base import Node, Row

_ASK_AGAIN_S = 0.5
_log = structlog.get_logger("qmtl.runner")


class StreamInput(Node):
    """A stream of rows, one per interval: fed by hand, or read from `history_provider`.

    `data_key` names the series at the provider (`ohlcv:binanceusdm:BTC/USDT%3AUSDT:1m`); without it the
    provider's `bind_stream` says in `series` which it is, or raises NodeIdError. `tags` name the stream for
    people. `period` rows are its warm-up; `strict` wants every one of them.
    """

    def __init__(
        self,
        tags: Iterable[str] | None = None,
        interval: int | str | None = None,
        period: int | None = None,
        *,
        history_provider: Any = None,
        data_key: str | None = None,
        strict: bool = False,
        **node_kwargs: Any,
    ) -> None:
        self.tags = (tags,) if isinstance(tags, str) else tuple(tags or ())
        self.history_provider = history_provider
        self.data_key = data_key
        self.strict = strict
        self.series = data_key
        super().__init__((), interval=interval, period=period, **node_kwargs)
        bind = getattr(history_provider, "bind_stream", None)
        if bind is not None:
            bind(self)

    @property
    def node_id(self) -> str:
        """See Node: the series key where there is one."""
        return self.data_key or self.name or ":".join(["stream", *self.tags])

    @property
    def symbol(self) -> str | None:
        """The instrument the series names, None where it names none."""
        kind, *parts = (self.series or "").split(":")
        if kind not in {"ohlcv", "trades"} or len(parts) < 2:
            return None
        return symbol_key(parts[1].replace("%3A", ":").replace("%25", "%"))

    @property
    def clock(self) -> Clock:
        """The provider's clock, the machine's where it has none."""
        clock: Clock | None = getattr(self.history_provider, "clock", None)
        return clock or SystemClock()

    async def fetch_rows(self, start: int, end: int, **context: Any) -> list[Row]:
        """Return (ts, row) of [start, end) in epoch seconds from the provider, ascending.

        `context` (world_id, execution_domain, as_of) is passed as far as the provider takes it. An answer
        that must be held is never returned: the provider is asked again after its policy's back-off. Raises
        what the provider raises, and ValueError naming the node when a row has no `ts`.
        """
        return rows_of(await self._fetch(start, end, context), self.node_id)

    async def _fetch(self, start: int, end: int, context: Mapping[str, Any]) -> Any:
        fetch = self.history_provider.fetch
        taken = inspect.signature(fetch).parameters
        takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values())
        known = {k: v for k, v in context.items() if v is not None and (takes_all or k in taken)}
        held_for: str | None = None
        while True:
            answer = fetch(start, end, node_id=self.node_id, interval=self.grid_s, **known)
            if inspect.isawaitable(answer):
                answer = await answer
            told = getattr(answer, "metadata", None)
            if not getattr(told, "hold", False):
                return answer
            reason = str(getattr(told, "downgrade_reason", "held"))
            if reason == "as_of_regression":
                raise SeamlessDomainPolicyError(f"{self.node_id}: {reason}: a newer as_of was used before")
            if reason != held_for:
                held_for = reason
                _log.warning("history held", node=self.node_id, reason=reason, action="asks again")
            await self.clock.sleep(self._backoff_s())

    def _backoff_s(self) -> float:
        policy = getattr(self.history_provider, "sla", None)
        wait_ms = getattr(policy, "retry_backoff_ms", None)
        return _ASK_AGAIN_S if wait_ms is None else wait_ms / 1000

    def warmup_range(self) -> tuple[int, int]:
        """Return [start, end) of the last `period` closed cells."""
        step, offset = self.grid_s, grid_offset(self.grid_s)
        end = (self.clock.now_ms() // 1000 - CLOSE_GRACE_S - offset) // step * step + offset
        return max(0, end - self.length * step), end

    async def fetch_warmup(
        self, start: int | None = None, end: int | None = None, **context: Any
    ) -> list[Row]:
        """Return the history of [start, end), by default the `period` rows before the last closed cell's end.

        Asks the provider to fill the range first, where it can; `context` as in `fetch_rows`. RuntimeError
        `history gap in strict mode` when the stream is strict and cells are missing; without, what is there
        is enough.
        """
        first, last = self.warmup_range()
        end = last if end is None else end
        start = (
            (first if end == last else max(0, end - self.length * self.grid_s)) if start is None else start
        )
        ensure = getattr(self.history_provider, "ensure_range", None)
        if ensure is not None and "as_of" not in context:
            try:
                await ensure(start, end, node_id=self.node_id, interval=self.grid_s)
            except SeamlessUnavailableError as error:
                if self.strict:
                    raise RuntimeError(f"history gap in strict mode: {error}") from error
                _log.warning("history is incomplete", node=self.node_id, reason=str(error))
        answer = await self._fetch(start, end, context)
        rows = rows_of(answer, self.node_id)
        if self.strict:
            self._require_all(answer, len(rows), start, end)
        return rows

    def _require_all(self, answer: Any, count: int, start: int, end: int) -> None:
        told = getattr(answer, "metadata", None)
        if told is not None:
            if told.missing:
                first, last, reason = told.missing[0]
                detail = f"{self.node_id}: [{first}, {last}) is missing ({reason})"
                raise RuntimeError(f"history gap in strict mode: {detail}")
            return
        wanted = len(range(start, end, self.grid_s))
        if count < wanted:
            raise RuntimeError(f"history gap in strict mode: {self.node_id}: {count} of {wanted} rows")

    async def load_history(self, start: int | None = None, end: int | None = None) -> int:
        """Give every reader the rows of `fetch_warmup` without computing; return how many there were."""
        rows = await self.fetch_warmup(start, end)
        for edge in self.readers:
            edge.extend(rows)
        return len(rows)


def rows_of(answer: Any, node_id: str) -> list[Row]:
    """Return a provider's answer as (ts, row), ascending; ValueError naming the node when a row has no ts."""
    rows = []
    for row in _mappings(answer):
        if "ts" not in row:
            raise ValueError(f"{node_id}: a row of the history has no ts: {dict(row)!r}")
        rows.append((int(row["ts"]), row))
    rows.sort(key=lambda row: row[0])
    return rows


def _mappings(answer: Any) -> Iterable[Mapping[str, Any]]:
    """Rows of a provider's answer: a frame (polars, pandas), a result with one, or mappings themselves."""
    frame = getattr(answer, "frame", answer)
    if hasattr(frame, "iter_rows"):
        # Column by column: one pass over each, and no type looked up per value.
        columns = frame.to_dict(as_series=False)
        names = tuple(columns)
        return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if hasattr(frame, "to_dict"):
        records: Iterable[Mapping[str, Any]] = frame.to_dict("records")
        return records
    rows: Iterable[Mapping[str, Any]] = frame
    return rows
