"""What one backtest is made of, and what each of its stretches left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from qmtl.core.instrument import Instrument
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.runtime.sdk.backtest_terms import BacktestTerms
from qmtl.runtime.sdk.market_history import Hole, MarketHistory
from qmtl.runtime.sdk.signals import Signals
from qmtl.runtime.sdk.strategy import Strategy
from qmtl.runtime.sdk.trade_plan import TradePlan


@dataclass(frozen=True, kw_only=True)
class BacktestJob:
    """Everything one run is made of.

    `histories` and `instruments` are by exchange symbol; `warmup` is what `find_warmup` told, unused by the
    event face; `excluded` are ranges [start, end) in ms that are cut out, flat before each.
    """

    strategy: Strategy
    plan: TradePlan
    histories: Mapping[str, MarketHistory]
    instruments: Mapping[str, Instrument]
    terms: BacktestTerms = field(default_factory=BacktestTerms)
    warmup: int = 1
    excluded: Sequence[tuple[int, int]] = ()

    @property
    def wants_ticks(self) -> bool:
        """Tell whether the strategy decides inside bars, whose path a candle does not tell."""
        is_ticking = type(self.strategy).on_tick is not Strategy.on_tick
        return self.strategy.decide_on == "tick" or is_ticking


@dataclass
class Segment:
    """One stretch without a cut: its journal, its signals where computed at once, its last wallet."""

    journal: MemoryJournal
    histories: dict[str, MarketHistory]
    signals: dict[str, Signals]
    missing: list[Hole]
    wallet: Decimal
