"""Where rows enter a strategy."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from qmtl.engine.clock import SystemClock
from qmtl.engine.intents import symbol_key
from qmtl.runtime.sdk.nodes.base import Node, Row

CLOSE_GRACE_S = 2
"""A cell counts as closed so long after its end."""


class StreamInput(Node):
    """A stream of rows, one per interval: fed by hand, or read from `history_provider`.

    `data_key` names the series at the provider (`ohlcv:binanceusdm:BTC/USDT%3AUSDT:1m`); without it the
    provider resolves the node's own id. `tags` name the stream for people.
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
        """The instrument the series key names, None where it names none."""
        kind, *parts = (self.data_key or "").split(":")
        if kind not in {"ohlcv", "trades"} or len(parts) < 2:
            return None
        return symbol_key(parts[1].replace("%3A", ":").replace("%25", "%"))

    async def fetch_rows(self, start: int, end: int, **context: Any) -> list[Row]:
        """Return (ts, row) of [start, end) in epoch seconds from the provider, ascending.

        `context` (world_id, execution_domain, as_of) is passed as far as the provider takes it. Raises what
        the provider raises, and ValueError naming the node when a row has no `ts`.
        """
        fetch = self.history_provider.fetch
        taken = inspect.signature(fetch).parameters
        takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values())
        known = {k: v for k, v in context.items() if v is not None and (takes_all or k in taken)}
        answer = fetch(start, end, node_id=self.node_id, interval=self.grid_s, **known)
        if inspect.isawaitable(answer):
            answer = await answer
        return rows_of(answer, self.node_id)

    async def fetch_warmup(self, start: int | None = None, end: int | None = None) -> list[Row]:
        """Return the history of [start, end), by default the `period` rows before the last closed cell's end.

        Asks the provider to fill the range first, where it can. RuntimeError `history gap in strict mode`
        when the stream is strict and rows are missing.
        """
        grid_s = self.grid_s
        end = (SystemClock().now_ms() // 1000 - CLOSE_GRACE_S) // grid_s * grid_s if end is None else end
        start = end - self.length * grid_s if start is None else start
        ensure = getattr(self.history_provider, "ensure_range", None)
        if ensure is not None:
            await ensure(start, end, node_id=self.node_id, interval=grid_s)
        rows = await self.fetch_rows(start, end)
        wanted = len(range(start, end, grid_s))
        if self.strict and len(rows) < wanted:
            raise RuntimeError(f"history gap in strict mode: {self.node_id}: {len(rows)} of {wanted} rows")
        return rows

    async def load_history(self, start: int | None = None, end: int | None = None) -> int:
        """Give every reader the rows of `fetch_warmup` without computing; return how many there were."""
        rows = await self.fetch_warmup(start, end)
        for edge in self.readers:
            for row in rows:
                edge.push(row)
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


def _mappings(answer: Any) -> Iterator[Mapping[str, Any]]:
    """Rows of a provider's answer: a frame (polars, pandas), a result with one, or mappings themselves."""
    frame = getattr(answer, "frame", answer)
    if hasattr(frame, "iter_rows"):
        yield from frame.iter_rows(named=True)
    elif hasattr(frame, "to_dict"):
        yield from frame.to_dict("records")
    else:
        yield from frame
