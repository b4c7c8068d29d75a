"""Compiled backtests of signal columns: single runs and thousands of parameter sets on one market.

What a run means is the event tier's: a signal at a close fills at the next open (or at that close), stop and
target rest inside the bar, the stop is met first, a gap through either fills at the open, both signals on
one bar are neither, an entry in a position counts only where the same bar exits it, and then reverses.
Prices, lots and money are whole numbers inside (`kernel_loop`), so results are exact.
"""

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from functools import cached_property, partial
from math import gcd, isnan
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from qmtl.core.fees import MakerTakerFeeModel
from qmtl.core.instrument import Instrument
from qmtl.core.money import parse_decimal
from qmtl.engine.heap import keep_freed_memory
from qmtl.engine.kernel_run import Curve, KernelRun
from qmtl.engine.margin import find_bracket, standard_brackets
from qmtl.engine.simulated_venue import FillMode

if TYPE_CHECKING:
    from qmtl.engine.kernel_loop import Terms

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_FEE_STEP = Decimal("1E-8")
_FRACTIONS = 10**18
_BILLION = 10**9
_LARGEST = 2**62
YEAR_MS = 365 * 86_400_000
_FINEST = 10
_NEAR = 1e-3
"""A price this near to a whole number of steps is one: the rest is how floats write decimals."""
REASONS = ("open", "stop", "target", "signal", "reversal", "excluded")
"""Why a trade ended, by the number in its row."""


class KernelError(ValueError):
    """Candles, signals or settings that the kernel cannot compute exactly; the message names which."""


class Candles(NamedTuple):
    """Closed candles of one market, oldest first: UTC milliseconds of their opens, and float64 prices."""

    open_ms: Whole
    open: Floats
    high: Floats
    low: Floats
    close: Floats


class Columns(NamedTuple):
    """What a strategy says at each close."""

    long: Flags
    short: Flags
    exit_long: Flags
    exit_short: Flags


class Sizing(msgspec.Struct, frozen=True):
    """How large an entry is, judged at the deciding close.

    `value` is base units, quote units, a fraction of equity, or the yearly standard deviation the position
    should have as a fraction of equity, measured over the last `window` log returns.
    """

    kind: Literal["quantity", "notional", "equity", "volatility"] = "quantity"
    value: Decimal = Decimal(1)
    window: int = 1_440


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """What every run of one market shares: money, costs, size and the fill model."""

    wallet: Decimal = Decimal(10_000)
    fees: MakerTakerFeeModel = MakerTakerFeeModel()
    slippage_ticks: int = 0
    sizing: Sizing = Sizing()
    leverage: int = 1
    fill: FillMode = "next_open"


class Funding(NamedTuple):
    """Payments, ascending in time: when due, rate as a fraction of notional, mark (NaN: the next open)."""

    at_ms: Whole
    rate: Floats
    mark: Floats


class KernelMarket:
    """Candles of one instrument as the kernel counts them, made once and shared by every run.

    `price_step` is the tick, or finer where prices are between ticks. After each row of `ends`, ascending,
    candles were cut out: what is held there is closed at its close, what waits is cancelled. Raises
    KernelError where prices have more than ten decimals beyond the tick, or are not finite and positive.
    """

    def __init__(
        self,
        candles: Candles,
        instrument: Instrument,
        funding: Funding | None = None,
        ends: Iterable[int] = (),
        interval_ms: int | None = None,
    ) -> None:
        keep_freed_memory()
        if interval_ms is not None:
            self.interval_ms = interval_ms
        self.candles = candles
        self.ends = np.array(list(ends), np.int64)
        self._terms: dict[Conditions, Terms] = {}
        self.instrument = instrument
        prices = candles[1:]
        if any(column.shape != candles.open_ms.shape for column in prices):
            raise KernelError(f"candles: columns of different length: {[c.size for c in candles]}")
        self.price_step, self._top = _find_step(prices, instrument.tick_size)
        lot_value = self.price_step * instrument.lot_size
        self.money_step = min(_FEE_STEP, Decimal(1).scaleb(int(lot_value.as_tuple().exponent)))
        self.value = int(lot_value / self.money_step)
        self.funding = self._place_funding(funding)

    def count(self, prices: Floats) -> Whole:
        """Return prices of this market in its steps."""
        from qmtl.engine.kernel_loop import count_steps

        return count_steps(prices, 1 / float(self.price_step))

    @cached_property
    def open(self) -> Whole:
        """Opens in price steps."""
        return self.count(self.candles.open)

    @cached_property
    def high(self) -> Whole:
        """Highs in price steps."""
        return self.count(self.candles.high)

    @cached_property
    def low(self) -> Whole:
        """Lows in price steps."""
        return self.count(self.candles.low)

    @cached_property
    def close(self) -> Whole:
        """Closes in price steps."""
        return self.count(self.candles.close)

    @cached_property
    def interval_ms(self) -> int:
        """Length of a candle where nobody told it: the smallest distance of two opens."""
        opens = self.candles.open_ms
        return int(np.diff(opens).min()) if opens.size > 1 else 60_000

    @cached_property
    def squares(self) -> Floats:
        """Squared log return of each close, the first 0."""
        from qmtl.engine.kernel_loop import square_returns

        return square_returns(self.candles.close)

    def _place_funding(self, funding: Funding | None) -> Whole:
        """Return (row before whose open it is paid, whole, part / 1e18) fee steps for one lot."""
        if funding is None:
            return np.empty((0, 3), np.int64)
        rows = np.searchsorted(self.candles.open_ms, funding.at_ms, side="left")
        placed = []
        for row, rate, known in zip(rows.tolist(), funding.rate.tolist(), funding.mark.tolist(), strict=True):
            if not 0 < row < self.candles.close.size:
                continue
            mark = self.candles.open[row].item() if isnan(known) else known
            lot = parse_decimal(rate, "funding rate") * parse_decimal(mark, "mark") * self.instrument.lot_size
            exact = int(lot / _FEE_STEP * _FRACTIONS)
            whole, part = divmod(abs(exact), _FRACTIONS)
            sign = -1 if exact < 0 else 1
            placed.append((row, sign * whole, sign * part))
        return np.array(placed, np.int64).reshape(-1, 3)

    def terms(self, conditions: Conditions, stop: float = 0.0, target: float = 0.0) -> "Terms":
        """Return `conditions` as whole numbers; KernelError where they leave what 64 bits hold."""
        known = self._terms.get(conditions)
        if known is None:
            known = self._terms[conditions] = self._find_terms(conditions)
        if not stop and not target:
            return known
        return known._replace(stop=_fraction(stop, "stop"), target=_fraction(target, "target"))

    def _find_terms(self, conditions: Conditions) -> "Terms":
        from qmtl.engine.kernel_loop import FIXED, NOTIONAL, SHARE, VOLATILITY, Terms

        one, fees, sizing = self.instrument, conditions.fees, conditions.sizing
        lot_value = self.price_step * one.lot_size
        rates = [lot_value * rate / _FEE_STEP for rate in (fees.taker, fees.maker)]
        (taker, taker_down), (maker, maker_down) = (rate.as_integer_ratio() for rate in rates)
        down = taker_down * maker_down // gcd(taker_down, maker_down)
        taker_up, maker_up = taker * down // taker_down, maker * down // maker_down
        max_lots = int(one.market_max_quantity / one.lot_size)
        if max_lots * self._top * max(self.value, 2 * abs(taker_up), 2 * abs(maker_up), 1) > _LARGEST:
            raise KernelError(f"{one.symbol}: prices, steps and fees of this market exceed 64 bits")
        kinds = {"quantity": FIXED, "notional": NOTIONAL, "equity": SHARE, "volatility": VOLATILITY}
        steps = {"quantity": one.lot_size, "notional": self.money_step}
        exact = sizing.value / steps.get(sizing.kind, Decimal(1) / _BILLION)
        size = min(int(exact), max_lots + 1 if sizing.kind == "quantity" else _LARGEST)
        if sizing.kind == "volatility" and self.ends.size:
            raise KernelError("size: a volatility target would look over a cut; backtest one set at a time")
        if sizing.value <= 0 or (sizing.kind not in steps and size > 9 * _BILLION):
            raise KernelError(f"size: {sizing.kind} {sizing.value} is not above 0, or too large")
        if sizing.kind not in steps and size != exact:
            raise KernelError(f"size: {sizing.kind} {sizing.value} has more than nine decimals")
        wallet = int(conditions.wallet / self.money_step)
        if wallet > _LARGEST:
            raise KernelError(f"wallet: {conditions.wallet} in steps of {self.money_step} exceeds 64 bits")
        brackets = standard_brackets(one.maintenance_rate)
        caps = [bracket.cap for bracket in brackets if bracket.max_leverage >= conditions.leverage]
        if not caps:
            raise KernelError(f"leverage: {conditions.leverage} is more than {one.symbol} allows")
        rate = find_bracket(brackets, self._largest(conditions)).rate
        long_ruin, short_ruin = _ruin(conditions.leverage, rate)
        return Terms(
            wallet=wallet,
            tick=int(one.tick_size / self.price_step),
            value=self.value,
            taker_up=taker_up,
            maker_up=maker_up,
            fee_down=down,
            fee_step=int(_FEE_STEP / self.money_step),
            slip=int(conditions.slippage_ticks * one.tick_size / self.price_step),
            stop=0,
            target=0,
            sizing=kinds[sizing.kind],
            size=size,
            max_value=min(int(max(caps) / self.money_step), _LARGEST),
            ruin_long=long_ruin,
            ruin_short=short_ruin,
            window=sizing.window,
            bars_a_year=YEAR_MS / self.interval_ms if sizing.kind == "volatility" else 0.0,
            min_lots=int(one.min_quantity / one.lot_size) or 1,
            max_lots=max_lots,
            min_value=int(one.min_notional / self.money_step),
            leverage=conditions.leverage,
            fills_at_close=int(conditions.fill == "close"),
        )

    def _largest(self, conditions: Conditions) -> Decimal:
        """Return a notional that no position exceeds while the wallet is less than four times the first."""
        sizing, grown = conditions.sizing, 4 * conditions.wallet
        bounds = {
            "quantity": sizing.value * self.price_step * self._top,
            "notional": sizing.value,
            "equity": grown * sizing.value,
        }
        # Twice: prices move between the decision and the fill, and a short grows as it loses.
        return 2 * min(grown * conditions.leverage, bounds.get(sizing.kind, Decimal("Infinity")))


def run(
    market: KernelMarket,
    columns: Columns,
    conditions: Conditions,
    *,
    stop: float = 0.0,
    target: float = 0.0,
    rows: slice = slice(None),
    marks: Whole | None = None,
) -> KernelRun:
    """Trade `columns` over `rows` of `market`, flat at the first of them.

    `columns` are as long as the market. `stop` and `target` are fractions of the entry fill, 0
    for none. Row numbers of trades and of `marks` (ascending; None: every row) count from the first of
    `rows`. KernelError where a column has another length or is not boolean.
    """
    from qmtl.engine import kernel_loop

    begin, end, _ = rows.indices(market.close.size)
    for name, column in zip(columns._fields, columns, strict=True):
        if column.dtype != np.bool_ or column.shape != market.close.shape:
            wanted = f"expected {market.close.size} booleans, got {column.dtype} {column.shape}"
            raise KernelError(f"{name}: {wanted}")
    terms = market.terms(conditions, stop, target)
    cut = Columns(*(np.ascontiguousarray(column[begin:end]) for column in columns))
    if marks is None:
        marks = np.arange(end - begin, dtype=np.int64)
    funding = market.funding[np.searchsorted(market.funding[:, 0], begin) :].copy()
    funding[:, 0] -= begin
    ends = market.ends[np.searchsorted(market.ends, begin) :] - begin
    room = int(np.count_nonzero(cut.long) + np.count_nonzero(cut.short)) + 1
    trades = np.empty((room, kernel_loop.TRADE_COLUMNS), np.int64)
    money = np.empty(marks.size, np.int64)
    counts = np.zeros(kernel_loop.COUNTERS, np.int64)
    kernel_loop.trade(
        market.open[begin:end], market.high[begin:end], market.low[begin:end], market.close[begin:end],
        cut.long, cut.short, cut.exit_long, cut.exit_short,
        terms, market.squares[begin:end], funding, ends, marks, trades, money, counts,
    )  # fmt: skip
    conflicts, refusals, bars_held, turnover, closed, is_open, ruined = counts.tolist()
    if ruined:
        when = np.datetime64(int(market.candles.open_ms[begin + ruined - 1]), "ms")
        raise KernelError(f"a position may be liquidated in the bar of {when}; the event tier knows")
    curve = Curve(marks.size, partial(np.multiply, money))
    return KernelRun(market, trades[: closed + is_open], curve, conflicts, refusals, bars_held, turnover)


def compile_kernel() -> None:
    """Compile the loop, or load it from the cache on disk; the first time takes some seconds."""
    from qmtl.engine import kernel_loop

    price = np.ones(2)
    price.flags.writeable = False
    steps, none = np.ones(2, np.int64), np.zeros(2, np.bool_)
    kernel_loop.count_steps(price, 1.0)
    kernel_loop.find_misfits(price, 1.0, _NEAR)
    numbers: dict[str, Any] = {
        name: 1.0 if kind is float else 1 for name, kind in kernel_loop.Terms.__annotations__.items()
    }
    trades = np.zeros((1, kernel_loop.TRADE_COLUMNS), np.int64)
    kernel_loop.earn(trades, 1, 1.0)
    kernel_loop.trade(
        steps, steps, steps, steps, none, none, none, none, kernel_loop.Terms(**numbers), np.ones(2),
        np.empty((0, 3), np.int64), steps[:0], steps[:0], trades, steps,
        np.zeros(kernel_loop.COUNTERS, np.int64),
    )  # fmt: skip


class Job(NamedTuple):
    """One parameter set of a batch."""

    columns: Columns
    stop: float = 0.0
    target: float = 0.0


def run_batch(
    market: KernelMarket,
    jobs: Iterable[Job],
    conditions: Conditions,
    *,
    marks: Whole | None = None,
    threads: int = 2,
) -> Iterator[KernelRun]:
    """Yield the run of each job, in order, `threads` at once: the loops release the interpreter."""
    from concurrent.futures import ThreadPoolExecutor

    def one(job: Job) -> KernelRun:
        return run(market, job.columns, conditions, stop=job.stop, target=job.target, marks=marks)

    if threads < 2:
        yield from map(one, jobs)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(one, jobs)


def _find_step(prices: Sequence[Floats], tick: Decimal) -> tuple[Decimal, int]:
    """Return the step that every price lies on, the tick or finer, and the highest price in it."""
    from qmtl.engine.kernel_loop import find_misfits

    step = tick
    # A market of closes alone is given the one column four times.
    different = {id(column): column for column in prices}.values()
    for _ in range(_FINEST):
        top = 1
        for column in different:
            misfits, most = find_misfits(column, 1 / float(step), _NEAR)
            if misfits:
                break
            top = max(top, most)
        else:
            return step, top
        step = step / 10
    found = np.concatenate([np.ravel(column) for column in prices])
    bad = found[~(np.isfinite(found) & (found > 0))]
    if bad.size:
        raise KernelError(f"candles: a price is {bad[0]}")
    raise KernelError(f"candles: prices do not lie on steps of {step}; round them to the tick {tick}")


def _ruin(leverage: int, rate: Decimal) -> tuple[int, int]:
    """Return how far (1e-9 of the entry) against a long and a short an isolated one may be liquidated."""
    share = Decimal(1) / leverage
    long = 1 - (1 - share) / (1 - rate)
    short = (1 + share) / (1 + rate) - 1
    return int(long * _BILLION), int(short * _BILLION)


def _fraction(value: float, name: str) -> int:
    exact = parse_decimal(value, name)
    if not 0 <= exact < 1:
        raise KernelError(f"{name}: expected a fraction of the entry from 0 to below 1, got {value}")
    return int(exact * _FRACTIONS)
