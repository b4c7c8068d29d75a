"""A sweep's work as plain data and files, so that workers in other processes and machines can open it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from qmtl.core.instrument import Instrument
from qmtl.core.interval import FUNDING_MS
from qmtl.engine.crew import Workload
from qmtl.engine.kernel import Candles, Conditions, Funding, KernelError, Sizing
from qmtl.engine.splits import Split
from qmtl.engine.statistics import Period, choose_period
from qmtl.runtime.sdk.backtest_terms import BacktestTerms
from qmtl.runtime.sdk.bars import Bars
from qmtl.runtime.sdk.market_history import MarketHistory
from qmtl.runtime.sdk.param import StrategyError
from qmtl.runtime.sdk.strategy_file import StrategySource
from qmtl.runtime.sdk.trade_plan import USUAL_SHARE, TradePlan

WORKER = "qmtl.runtime.sdk.sweep_worker:open_worker"
_COLUMNS = ("open", "high", "low", "close", "volume")


@dataclass(frozen=True, kw_only=True)
class SweepJob:
    """Everything a set is evaluated with: strategy, fixed parameters, market, costs, splits.

    `histories` are by exchange symbol, the first is traded and the others are what `bars.of` may ask for.
    `excluded` are ranges [start, end) in ms that are cut out: `splits` count the rows that are left, no
    signal looks over a cut, and each is met flat.
    """

    source: StrategySource
    fixed: Mapping[str, Any]
    plan: TradePlan
    terms: BacktestTerms
    histories: Mapping[str, MarketHistory]
    instrument: Instrument
    splits: Sequence[Split]
    excluded: Sequence[tuple[int, int]] = ()

    @property
    def symbol(self) -> str:
        """The traded symbol."""
        return self.plan.markets[0]

    @property
    def period(self) -> Period:
        """How often returns are looked at."""
        return choose_period(self.histories[self.symbol].bars.open_ms, self.plan.interval_ms)

    def identify(self) -> dict[str, Any]:
        """Return what a results file must agree with: another value means another sweep."""
        history = self.histories[self.symbol]
        return {
            "strategy": self.source.label,
            "class": self.source.cls.__name__,
            "sha256": self.source.sha256,
            "fixed": dict(self.fixed),
            "data": {symbol: one.fingerprint for symbol, one in self.histories.items()},
            "funding": history.funding_print,
            "symbol": self.symbol,
            "interval": self.plan.interval,
            "bars": len(history.bars),
            "start_ms": history.start_ms,
            "end_ms": history.end_ms,
            "plan": self.plan.dump(),
            "terms": msgspec.to_builtins(self.terms),
            "instrument": msgspec.to_builtins(self.instrument),
            "splits": [list(split) for split in self.splits],
            **({"excluded": [list(cut) for cut in self.excluded]} if self.excluded else {}),
        }

    def write(self, folder: Path) -> Workload:
        """Write the columns below `folder` and return the workload that opens them there.

        ValueError when several symbols are not left with the same stretches.
        """
        folder.mkdir(parents=True, exist_ok=True)
        stretches = {}
        for symbol, history in self.histories.items():
            left = history.without(self.excluded)
            stretches[symbol] = [len(part.bars) for part in left]
            write_columns(folder / symbol, [part.bars for part in left], find_funding(history))
        if len({len(lengths) for lengths in stretches.values()}) != 1:
            raise ValueError("histories of several symbols must cover the same stretches")
        config = {
            "folder": str(folder.absolute()),
            "strategy": self.source.reference,
            "sha256": self.source.sha256,
            "fixed": dict(self.fixed),
            "symbols": list(self.histories),
            "interval": self.plan.interval,
            "stretches": stretches,
            "instrument": json.loads(msgspec.json.encode(self.instrument)),
            "conditions": json.loads(msgspec.json.encode(find_conditions(self.plan, self.terms))),
            "splits": [list(split) for split in self.splits],
            "period": list(self.period),
        }
        return Workload(WORKER, config)


def find_conditions(plan: TradePlan, terms: BacktestTerms) -> Conditions:
    """Return plan and terms as the kernel takes them; KernelError names what only the event tier can do.

    Limits of risk are left out: they guard an account, and a sweep has none.
    """
    usual = BacktestTerms()
    for name in ("latency_ms", "liquidity", "margin_mode"):
        if getattr(terms, name) != getattr(usual, name):
            message = f"{name} {getattr(terms, name)} is not in the kernel; backtest one set at a time"
            raise KernelError(message)
    if plan.quantity is not None:
        sizing = Sizing("quantity", plan.quantity)
    elif plan.notional is not None:
        sizing = Sizing("notional", plan.notional)
    elif plan.volatility_target is not None:
        sizing = Sizing("volatility", plan.volatility_target, plan.volatility_window)
    else:
        sizing = Sizing("equity", USUAL_SHARE if plan.size_pct is None else plan.size_pct)
    return Conditions(
        wallet=terms.wallet,
        fees=terms.models().fees,
        slippage_ticks=terms.slippage_ticks,
        sizing=sizing,
        leverage=terms.leverage,
        fill=terms.fill,
    )


def find_funding(history: MarketHistory) -> Funding | None:
    """Return the known funding payments of a history; a rate that is missing counts 0, as in a backtest."""
    if not history.funding:
        return None
    slots = sorted(history.funding)
    paid = [history.funding[slot] for slot in slots]
    return Funding(
        # Some exchanges stamp a payment milliseconds late: it is due at its slot, as in a backtest.
        np.array(slots, np.int64) * FUNDING_MS,
        np.array([one.rate for one in paid], np.float64),
        np.array([np.nan if one.mark is None else one.mark for one in paid], np.float64),
    )


def write_columns(folder: Path, parts: Sequence[Bars], funding: Funding | None) -> None:
    """Write stretches of bars end to end, one .npy file a column, which workers map into memory."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("open_ms", *_COLUMNS):
        np.save(folder / f"{name}.npy", np.concatenate([getattr(bars, name) for bars in parts]))
    (folder / "funding.npy").unlink(missing_ok=True)
    if funding is not None:
        np.save(folder / "funding.npy", np.stack([column.astype(np.float64) for column in funding]))


def read_columns(folder: Path, symbol: str, interval: str) -> tuple[Bars, Funding | None]:
    """Return what `write_columns` wrote."""
    times = np.asarray(np.load(folder / "open_ms.npy", mmap_mode="r"))
    columns = [np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in _COLUMNS]
    bars = Bars(times, *columns, symbol=symbol, interval=interval)
    if not (folder / "funding.npy").is_file():
        return bars, None
    at_ms, rate, mark = np.load(folder / "funding.npy")
    return bars, Funding(at_ms.astype(np.int64), rate, mark)


def to_candles(bars: Bars) -> Candles:
    """Return bars as the kernel takes them."""
    return Candles(bars.open_ms, bars.open, bars.high, bars.low, bars.close)


def check_face(source: StrategySource) -> None:
    """Raise StrategyError unless the kernel can run this strategy: signals, decided at closes."""
    cls = source.cls
    if cls.face() != "signals":
        raise StrategyError(f"{cls.__name__} has no signals(bars); only those are swept")
    if cls.decide_on != "close":
        raise StrategyError(f"{cls.__name__} decides on ticks; only closes are swept")
    if len(cls.symbols) > 1:
        raise StrategyError(f"{cls.__name__} trades {len(cls.symbols)} symbols; one is swept")
