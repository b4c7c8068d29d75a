"""Nodes on the engine and the simulated venue: backtest, replay and dry run."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from math import isfinite
from typing import Any

from qmtl.core.event import BarClosed, SessionSetup, SessionStarted, TimerFired, Transferred
from qmtl.core.instrument import Instrument
from qmtl.core.limits import RiskLimits
from qmtl.core.money import ZERO
from qmtl.core.order import Order, OrderIntent
from qmtl.engine.backtest import Backtest
from qmtl.engine.engine import Engine
from qmtl.engine.intents import symbol_key
from qmtl.engine.matching import MatchingCore
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.engine.risk import Approved, Refused, assess
from qmtl.engine.simulated_venue import SimulatedVenue
from qmtl.engine.strategy import Context, SilentStrategy
from qmtl.runtime.sdk.node_engine import Emission, NodePlan
from qmtl.runtime.sdk.nodes.base import Node, Row
from qmtl.runtime.sdk.nodes.sources import StreamInput

Travel = tuple[Node, NodePlan, Row]
"""A row, the node it is fed to, and its way from there."""

WALLET = Decimal(10_000)
"""First balance of a simulated run, in USDT."""

_STEP = Decimal("1e-10")
_LARGEST = Decimal(10) ** 12


class NodeStrategy(SilentStrategy):
    """The strategy port of a graph of nodes: each event lets one row travel."""

    name = "nodes"

    def __init__(self, publish: Callable[[Sequence[Emission]], None]) -> None:
        self.plan: NodePlan | None = None
        self.row: Row = (0, None)
        self.ctx: Context | None = None
        self.result: Any = None
        self._publish = publish
        self._is_warm = False

    @property
    def is_warm(self) -> bool:
        """Tell whether every node of the last row's way had its whole period."""
        return self._is_warm

    def on_bar(self, ctx: Context, bar: BarClosed) -> None:
        """See StrategyPort."""
        self._walk(ctx)

    def on_timer(self, ctx: Context) -> None:
        """Let a row travel that is no bar of a market."""
        self._walk(ctx)

    def _walk(self, ctx: Context) -> None:
        plan = self.plan
        if plan is None:
            return
        self.plan = None
        self.ctx = ctx
        self.result, emissions = plan.walk(self.row)
        if not self._is_warm:
            self._is_warm = plan.is_warm
        if emissions:
            self._publish(emissions)


class Simulation:
    """One engine on one simulated venue, driven row by row; its time is that of the rows.

    The first stream with the shortest interval of each instrument moves its price, where its rows have a
    close; a stream that names no instrument stands for `default_symbol`, and orders of instruments nobody
    streams are refused. `journal` holds everything that happened. What a node raises reaches whoever feeds.
    """

    def __init__(
        self,
        streams: Sequence[StreamInput],
        publish: Callable[[Sequence[Emission]], None],
        *,
        default_symbol: str,
        limits: RiskLimits,
    ) -> None:
        self.journal = MemoryJournal()
        self.strategy = NodeStrategy(publish)
        self.engine = Engine(self.strategy, self.journal)
        self._limits = limits
        self._default = symbol_key(default_symbol)
        self._market: dict[Node, str] = {}
        for stream in sorted(streams, key=lambda one: one.grid_s):
            symbol = self.symbol_of(stream)
            if symbol not in self._market.values():
                self._market[stream] = symbol
        symbols = dict.fromkeys([*self._market.values(), self._default])
        instruments = {symbol: _any_instrument(symbol) for symbol in symbols}
        core = MatchingCore(instruments, first_wallet=WALLET)
        self._backtest = Backtest(self.engine, SimulatedVenue(core))
        setup = SessionSetup(
            strategy=f"{__name__}:NodeStrategy", instruments=tuple(instruments.values()), limits=limits
        )
        self._backtest.start(
            SessionStarted(0, "simulation", "backtest", setup), Transferred(0, "USDT", WALLET)
        )

    def symbol_of(self, stream: StreamInput | None) -> str:
        """Return the instrument a stream is about, the configured one where it does not say."""
        return (None if stream is None else stream.symbol) or self._default

    def take(self, rows: Iterable[Travel]) -> Any:
        """Move the market row by row and let each travel; return the last fed node's own result."""
        self.strategy.result = None
        self._backtest.run(self._events(rows))
        return self.strategy.result

    def _events(self, rows: Iterable[Travel]) -> Iterator[BarClosed | TimerFired]:
        strategy, market = self.strategy, self._market
        for node, plan, row in rows:
            strategy.plan, strategy.row = plan, row
            event = None
            if (symbol := market.get(node)) is not None:
                event = parse_bar(symbol, row, node.grid_s * 1000)
            yield event or TimerFired((row[0] + node.grid_s) * 1000 - 1)

    def position(self, symbol: str) -> Decimal:
        """Return the signed base units held."""
        return self.engine.account.net_quantity(symbol)

    def assess(self, intent: OrderIntent) -> Approved | Refused:
        """Ask risk about an intent and record nothing."""
        return assess(intent, self.engine.risk, self._limits)

    def submit(self, intent: OrderIntent) -> Order | None:
        """Pass an intent of the row that is travelling to the engine; None when risk refused it."""
        ctx = self.strategy.ctx
        return None if ctx is None else ctx.submit(intent)


def parse_bar(symbol: str, row: Row, grid_ms: int) -> BarClosed | None:
    """Return the bar a row tells of: open, high, low default to its close; None without a price."""
    ts, payload = row
    if not isinstance(payload, Mapping):
        return None
    close = payload.get("close")
    if not isinstance(close, int | float) or not isfinite(close) or close <= 0:
        return None
    open_ms = ts * 1000
    return BarClosed(
        open_ms + grid_ms - 1,
        symbol,
        open_ms,
        payload.get("open", close),
        payload.get("high", close),
        payload.get("low", close),
        close,
        payload.get("volume", 0.0),
    )


def _any_instrument(symbol: str) -> Instrument:
    """An instrument without steps of its own: a stream of rows does not say what its venue accepts."""
    return Instrument(
        symbol=symbol,
        base=symbol,
        quote="",
        settle="",
        tick_size=_STEP,
        lot_size=_STEP,
        min_quantity=_STEP,
        max_quantity=_LARGEST,
        market_max_quantity=_LARGEST,
        min_notional=ZERO,
    )
