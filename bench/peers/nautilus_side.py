"""The close form in nautilus_trader: bars through its engine and simulated exchange, market orders."""

import sys
from collections import deque
from collections.abc import Mapping
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
from nautilus_trader.config import LoggingConfig, StrategyConfig
from nautilus_trader.core.datetime import millis_to_nanos
from nautilus_trader.model.currencies import BTC, USDT
from nautilus_trader.model.data import Bar, BarType
from nautilus_trader.model.enums import AccountType, OmsType, OrderSide
from nautilus_trader.model.identifiers import InstrumentId, Symbol, TraderId, Venue
from nautilus_trader.model.instruments import CryptoPerpetual
from nautilus_trader.model.objects import Money, Price, Quantity
from nautilus_trader.trading.strategy import Strategy

from bench.peers.serving import Candles, Outcome, serve

VENUE = Venue("BINANCE")
FEE = Decimal("0.0004")


def perpetual() -> Any:
    return CryptoPerpetual(
        instrument_id=InstrumentId(Symbol("BTCUSDT-PERP"), VENUE), raw_symbol=Symbol("BTCUSDT"),
        base_currency=BTC, quote_currency=USDT, settlement_currency=USDT, is_inverse=False,
        price_precision=1, price_increment=Price.from_str("0.1"),
        size_precision=3, size_increment=Quantity.from_str("0.001"),
        max_quantity=None, min_quantity=None, max_notional=None, min_notional=None, max_price=None,
        min_price=None, margin_init=Decimal("0.05"), margin_maint=Decimal("0.02"),
        maker_fee=FEE, taker_fee=FEE, ts_event=0, ts_init=0,
    )  # fmt: skip


class Settings(StrategyConfig, frozen=True):  # type: ignore[call-arg,misc]
    """What the strategy trades."""

    bar_type: BarType


class CloseForm(Strategy):  # type: ignore[misc]
    """Bands end at the bar before; everything is judged at the close."""

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        self.closes: deque[float] = deque(maxlen=20)
        self.upper_before, self.lower_before = float("inf"), float("-inf")
        self.held, self.entry = 0, 0.0
        self.fills: list[tuple[int, int, float]] = []

    def on_start(self) -> None:
        self.unit = Quantity.from_str("1.000")
        self.subscribe_bars(self.config.bar_type)

    def on_bar(self, bar: Bar) -> None:
        now, closes = float(bar.close), self.closes
        if len(closes) == 20:
            mean = sum(closes) / 20
            width = (sum((price - mean) ** 2 for price in closes) / 19) ** 0.5
            upper, lower, last, before = mean + width, mean - width, closes[-1], closes[-2]
            if self.held > 0:
                over = mean + 2 * width
                entry = self.entry
                if now <= entry * (1 - 0.0011) or now >= entry * (1 + 0.0016) or last > over >= now:
                    self.send(OrderSide.SELL)
            elif self.held < 0:
                under = mean - 2 * width
                entry = self.entry
                if now >= entry * (1 + 0.0011) or now <= entry * (1 - 0.0016) or last < under <= now:
                    self.send(OrderSide.BUY)
            elif now > upper:
                if not (last > upper or before > self.upper_before):
                    self.send(OrderSide.BUY)
            elif now < lower and not (last < lower or before < self.lower_before):
                self.send(OrderSide.SELL)
            self.upper_before, self.lower_before = upper, lower
        closes.append(now)

    def send(self, side: Any) -> None:
        self.submit_order(self.order_factory.market(self.config.bar_type.instrument_id, side, self.unit))

    def on_order_filled(self, event: Any) -> None:
        side = 1 if event.order_side == OrderSide.BUY else -1
        self.held += side
        self.entry = float(event.last_px)
        self.fills.append((event.ts_event, side, self.entry))


def prepare(candles: Candles, options: Mapping[str, Any]) -> Any:
    instrument = perpetual()
    bar_type = BarType.from_str(f"{instrument.id}-1-MINUTE-LAST-EXTERNAL")
    volume = Quantity.from_str("1000.000")
    bars = []
    for open_ms, *prices in zip(*(column.tolist() for column in candles), strict=True):
        at = millis_to_nanos(open_ms + 60_000)
        bars.append(Bar(bar_type, *(Price(price, 1) for price in prices), volume, at, at))
    ends = {millis_to_nanos(open_ms + 60_000): row for row, open_ms in enumerate(candles.open_ms.tolist())}

    def work() -> Any:
        quiet = LoggingConfig(bypass_logging=True)
        engine = BacktestEngine(
            BacktestEngineConfig(trader_id=TraderId("BENCH-001"), logging=quiet, run_analysis=False)
        )
        engine.add_venue(
            VENUE, OmsType.NETTING, AccountType.MARGIN, [Money(1_000_000_000, USDT)], base_currency=USDT
        )
        engine.add_instrument(instrument)
        engine.add_data(bars, validate=False)
        strategy = CloseForm(Settings(bar_type=bar_type))
        engine.add_strategy(strategy)
        engine.run()
        fills = [(ends[at], side, price) for at, side, price in strategy.fills]
        engine.dispose()
        return fills

    return work


def read(fills: Any) -> Outcome:
    rows = []
    for (begin, direction, entry), (end, _, leave) in zip(fills[::2], fills[1::2], strict=False):
        rows.append(
            (begin, end, direction, entry, leave, direction * (leave - entry) - 0.0004 * (entry + leave))
        )
    return Outcome(np.array(rows))


if __name__ == "__main__":
    serve(f"nautilus_trader {version('nautilus-trader')}", {"close_form": (prepare, read)})
