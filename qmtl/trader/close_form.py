"""The Bollinger rules in close form: what the benchmarks and the compiled kernel compute too.

Bands and the two past closes end at bar t−1; entry, stop, target and re-entry are judged and sent as
MARKET at close t: no offset, no cool-down, no volatility gate. At most one order a bar: after an exit the
next entry is judged at the next close.

Two faces with one result: bar by bar, or, over a history that is known (`prepare`), read from a table that
numpy fills at once. The table's bands have the same bits (`conditional.rolling_moments`).
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from math import inf
from typing import TYPE_CHECKING, Any

import msgspec

from qmtl.core.event import AnyEvent, BarClosed, OrderFilled
from qmtl.core.indicator import RollingMoments
from qmtl.core.interval import parse_interval
from qmtl.core.order import Order, OrderIntent, Role, Side
from qmtl.engine.strategy import Context, SilentStrategy
from qmtl.trader.conditional import rolling_moments

if TYPE_CHECKING:
    from qmtl.trader.conditional import Floats

_AHEAD = 256
"""Bars looked through at once for a stop or target."""
LONG, SHORT, LEAVE_LONG, LEAVE_SHORT = 1, 2, 4, 8


class CloseFormParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Constants of the close form; `stop` and `target` are fractions of the entry fill."""

    symbol: str = "BTCUSDT"
    interval: str = "1m"
    window: int = 20
    inner: float = 1.0
    outer: float = 2.0
    stop: float = 0.0011
    target: float = 0.0016
    quantity: Decimal = Decimal(1)


class CloseTable(msgspec.Struct):
    """What the rules say at each bar of a history, but for stop and target, which hang on the entry.

    `masks` holds LONG, SHORT, LEAVE_LONG, LEAVE_SHORT; `uppers` and `lowers` are the inner bands of the bar
    before, NaN until there are some. `asking` holds the rows at which something is asked of somebody who is
    flat (0), long (1) or short (-1); `is_plain`: every bar is later than the one before, none is late news.
    """

    bars: Sequence[BarClosed]
    times: list[int]
    closes: list[float]
    uppers: "Floats"
    lowers: "Floats"
    masks: bytes
    asking: dict[int, list[int]]
    is_plain: bool


class ComparedRows(msgspec.Struct, frozen=True):
    """What was compared at the rows of a table from `begin` up to `end`, said when somebody asks."""

    table: CloseTable
    begin: int
    end: int

    def __iter__(self) -> Iterator[dict[str, float]]:
        table, span = self.table, slice(self.begin, self.end)
        bands = (table.uppers[span].tolist(), table.lowers[span].tolist())
        rows = zip(table.closes[span], *bands, strict=True)
        return iter([{"close": close, "upperInter": high, "lowerInter": low} for close, high, low in rows])


class CloseForm(SilentStrategy):
    """The published rules on closes alone; position and entry come from fills."""

    name = "bollinger_close_form"

    def __init__(self, params: CloseFormParams | None = None) -> None:
        self.params = params = params or CloseFormParams()
        if not 0 < params.inner <= params.outer:
            raise ValueError(f"inner, outer: expected 0 < inner <= outer, got {params.inner}, {params.outer}")
        self._moments = RollingMoments(params.window)
        self._interval_ms = parse_interval(params.interval)
        self._inner, self._outer = params.inner, params.outer
        # The last close and the one before, the latter with its own inner bands: infinite until the window
        # is full, so that no close is beyond them.
        self._last = self._before = 0.0
        self._upper_before, self._lower_before = inf, -inf
        self._held = 0
        self._stop = self._target = 0.0
        self._floor = self._ceiling = 0.0
        self._table: CloseTable | None = None
        self._row = -1
        self._window = params.window

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "CloseForm":
        """Build from plain data; msgspec.ValidationError names what is wrong."""
        return cls(msgspec.convert(dict(params), CloseFormParams, strict=False))

    @property
    def is_warm(self) -> bool:
        """Tell whether the bands exist."""
        return self._moments.is_full if self._table is None else self._row + 1 >= self._window

    def prepare(self, bars: Sequence[BarClosed]) -> None:
        """Compute what the bars to come will say; they must be these, in order, from the first."""
        self._table, self._row = _tabulate(bars, self.params, self._interval_ms), -1

    def on_bar(self, ctx: Context, bar: BarClosed) -> None:
        """Decide at the close against the bands of the bar before, then fold the close into them."""
        if self._table is not None:
            self._read(ctx, bar, self._table)
            return
        close = bar.close
        last = self._last
        moments = self._moments
        if moments.is_full:
            mean = moments.mean
            near = self._inner * moments.std
            upper, lower = mean + near, mean - near
            if not (bar.warmup or bar.refilled):
                ctx.note({"close": close, "upperInter": upper, "lowerInter": lower})
                held = self._held
                if held:
                    # Only a close beyond its outer band can come back into it.
                    far = self._outer * moments.std
                    is_beyond = last > mean + far if held > 0 else last < mean - far
                    if is_beyond or not self._floor < close < self._ceiling:
                        self._leave(ctx, bar, last)
                elif close > upper:
                    if not (last > upper or self._before > self._upper_before):
                        self._send(ctx, bar, Side.BUY, Role.ENTRY, "above upper band")
                elif close < lower and not (last < lower or self._before < self._lower_before):
                    self._send(ctx, bar, Side.SELL, Role.ENTRY, "below lower band")
            self._upper_before, self._lower_before = upper, lower
        self._before = last
        self._last = close
        moments.push(bar.open_ms // self._interval_ms, close)

    def _read(self, ctx: Context, bar: BarClosed, table: CloseTable) -> None:
        """Decide at the close by the table."""
        self._row = row = self._row + 1
        opened = table.times[row] if row < len(table.times) else -1
        if opened != bar.open_ms:
            raise ValueError(f"bar {bar.open_ms} is not row {row} of the history, which opens at {opened}")
        if row < self._window or bar.warmup or bar.refilled:
            return
        close = bar.close
        ctx.note({"close": close, "upperInter": table.uppers.item(row), "lowerInter": table.lowers.item(row)})
        held, mask = self._held, table.masks[row]
        if held:
            is_back = mask & LEAVE_LONG if held > 0 else mask & LEAVE_SHORT
            if is_back or not self._floor < close < self._ceiling:
                is_stop = close <= self._stop if held > 0 else close >= self._stop
                is_target = close >= self._target if held > 0 else close <= self._target
                why = "stop" if is_stop else "target" if is_target else "re-entry"
                self._send(ctx, bar, Side.SELL if held > 0 else Side.BUY, Role.EXIT, why)
        elif mask & LONG:
            self._send(ctx, bar, Side.BUY, Role.ENTRY, "above upper band")
        elif mask & SHORT:
            self._send(ctx, bar, Side.SELL, Role.ENTRY, "below lower band")

    @property
    def is_prepared(self) -> bool:
        """Tell whether there is a table."""
        return self._table is not None

    def foresee(self, ctx: Context, events: Sequence[AnyEvent], at: int) -> Sequence[BarClosed]:
        """Return the bars up to the next at which the table, stop or target asks for an order."""
        table, row = self._table, self._row + 1
        if table is None or not table.is_plain or row < self._window:
            return ()
        asking = table.asking[self._held]
        found = bisect_left(asking, row)
        end = asking[found] if found < len(asking) else len(table.bars)
        if self._held:
            floor, ceiling, closes = self._floor, self._ceiling, table.closes
            end = min(end, row + _AHEAD)
            for close in closes[row:end]:
                if not floor < close < ceiling:
                    end = closes.index(close, row)
                    break
        bars = table.bars[row:end]
        return bars if events[at : at + len(bars)] == bars else ()

    def pass_quiet(self, bars: Sequence[BarClosed]) -> "ComparedRows":
        """Step over bars at which the table says nothing; return the rows that say what was compared."""
        table, row = self._table, self._row + 1
        if table is None:
            raise ValueError("no history was prepared")
        end = row + len(bars)
        self._row = end - 1
        return ComparedRows(table, row, end)

    def _leave(self, ctx: Context, bar: BarClosed, last: float) -> None:
        close, moments = bar.close, self._moments
        if self._held > 0:
            over = moments.mean + self._outer * moments.std
            is_stop, is_target, is_back = close <= self._stop, close >= self._target, last > over >= close
        else:
            under = moments.mean - self._outer * moments.std
            is_stop, is_target, is_back = close >= self._stop, close <= self._target, last < under <= close
        if is_stop or is_target or is_back:
            why = "stop" if is_stop else "target" if is_target else "re-entry"
            self._send(ctx, bar, Side.SELL if self._held > 0 else Side.BUY, Role.EXIT, why)

    def on_fill(self, ctx: Context, fill: OrderFilled, order: Order) -> None:
        """Read position and entry anew."""
        position = ctx.position(self.params.symbol)
        self._held = held = (position.quantity > 0) - (position.quantity < 0)
        entry, params = float(position.entry_price), self.params
        stop, target = entry * (1.0 - held * params.stop), entry * (1.0 + held * params.target)
        self._stop, self._target = stop, target
        self._floor, self._ceiling = (stop, target) if stop < target else (target, stop)

    def _send(self, ctx: Context, bar: BarClosed, side: Side, role: Role, why: str) -> None:
        params = self.params
        is_exit = role is Role.EXIT
        quantity = abs(ctx.position(params.symbol).quantity) if is_exit else params.quantity
        ctx.submit(
            OrderIntent(
                symbol=params.symbol,
                side=side,
                quantity=quantity,
                reduce_only=is_exit,
                role=role,
                bar_ms=bar.open_ms,
                why=why,
            )
        )

    def dump_state(self) -> dict[str, Any]:
        """Return everything remembered as plain data."""
        if self._table is not None:
            self._fold(self._table)
        bands = [self._upper_before, self._lower_before] if self._upper_before < inf else None
        return {
            "moments": self._moments.dump(),
            "closes": [self._last, self._before],
            "bands": bands,
            "position": [self._held, self._stop, self._target],
        }

    def load_state(self, state: Any) -> None:
        """Restore what `dump_state` returned; a table belongs to one run and is forgotten."""
        self._table = None
        self._moments.load(state["moments"])
        self._last, self._before = state["closes"]
        self._upper_before, self._lower_before = state["bands"] or (inf, -inf)
        self._held, self._stop, self._target = state["position"]
        self._floor, self._ceiling = sorted((self._stop, self._target))

    def _fold(self, table: CloseTable) -> None:
        """Bring what is remembered bar by bar in line with the table: the sums start anew every window."""
        window, end = self.params.window, self._row + 1
        self._moments = RollingMoments(window)
        self._upper_before, self._lower_before = inf, -inf
        # From a multiple of the window, so that the ring stands where it would have stood.
        for row in range(max(0, end - 3 * window) // window * window, end):
            moments = self._moments
            if moments.is_full:
                near = self._inner * moments.std
                self._upper_before, self._lower_before = moments.mean + near, moments.mean - near
            self._before, self._last = self._last, table.closes[row]
            moments.push(table.times[row] // self._interval_ms, table.closes[row])


def _tabulate(bars: Sequence[BarClosed], params: CloseFormParams, interval_ms: int) -> CloseTable:
    import numpy as np

    count = len(bars)
    opened, said = [bar.open_ms for bar in bars], [bar.close for bar in bars]
    times, closes = np.fromiter(opened, np.int64, count), np.fromiter(said, np.float64, count)
    mean, std = rolling_moments(times // interval_ms, closes, params.window)
    # Row t is judged against what ends at t-1: everything moves down by one.
    mean, std, last = (np.concatenate(([np.nan], column))[:count] for column in (mean, std, closes))
    near, far = params.inner * std, params.outer * std
    upper, lower = mean + near, mean - near
    # A comparison with NaN is False: nothing is beyond a band that does not exist.
    was_above, was_below = last > upper, last < lower
    above_before = np.concatenate(([False], was_above))[:count]
    below_before = np.concatenate(([False], was_below))[:count]
    over, under = mean + far, mean - far
    signs = (
        (LONG, (closes > upper) & ~was_above & ~above_before),
        (SHORT, (closes < lower) & ~was_below & ~below_before),
        (LEAVE_LONG, (last > over) & (closes <= over)),
        (LEAVE_SHORT, (last < under) & (closes >= under)),
    )
    masks = np.zeros(count, np.uint8)
    for sign, is_so in signs:
        masks |= is_so.view(np.uint8) * np.uint8(sign)
    is_late = bool([1 for bar in bars if bar.warmup or bar.refilled])
    is_plain = not is_late and bool((times[1:] > times[:-1]).all())
    asked = {0: LONG | SHORT, 1: LEAVE_LONG, -1: LEAVE_SHORT}
    asking = {held: np.flatnonzero(masks & mask).tolist() for held, mask in asked.items()}
    return CloseTable(list(bars), opened, said, upper, lower, masks.tobytes(), asking, is_plain)
