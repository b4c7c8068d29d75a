"""One spot account: balances of assets, its orders on the matching core, what it tells the user stream."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from decimal import ROUND_HALF_UP, Decimal

import msgspec

from qmtl.core.event import AnyEvent, OrderAccepted, OrderCanceled, OrderExpired, OrderFilled, OrderRejected
from qmtl.core.fees import MakerTakerFeeModel
from qmtl.core.instrument import Instrument
from qmtl.core.money import ZERO
from qmtl.core.order import Order, OrderIntent, Side
from qmtl.engine.matching import MatchingCore
from qmtl.engine.venue_models import VenueModels
from qmtl.services.paper_exchange.errors import VenueError
from qmtl.services.paper_exchange.spot_orders import (
    Message,
    SpotOrder,
    SpotTrade,
    execution_report,
    text,
)

_FEE_STEP = Decimal("1E-8")
_POOR = "-2010 Account has insufficient balance for requested action."
_REFUSALS = {
    "-5022": "Order would immediately match and take.",
    "-2021": "Stop price would trigger immediately.",
}
"""What spot says where the core speaks the futures venue's codes."""


class SpotAccount(msgspec.Struct):
    """What is owned, by asset; what open orders need is their own business."""

    assets: dict[str, Decimal]

    def total(self, asset: str) -> Decimal:
        """Units owned, bound by orders or not."""
        return self.assets.get(asset, ZERO)

    def move(self, asset: str, amount: Decimal) -> None:
        """Add (negative: take) units of an asset."""
        self.assets[asset] = self.total(asset) + amount


class SpotDesk:
    """Orders and balances of one API key; nothing can be sold that is not owned."""

    def __init__(
        self,
        instruments: Mapping[str, Instrument],
        fees: MakerTakerFeeModel,
        assets: Mapping[str, Decimal],
        price_of: Callable[[str], float],
    ) -> None:
        self.instruments = instruments
        self.fees = fees
        self.account = SpotAccount(dict(assets))
        self.orders: list[SpotOrder] = []
        self.trades: list[SpotTrade] = []
        self.updated_ms = 0
        self._core = MatchingCore(instruments, models=VenueModels(fees=fees), margin_mode="none")
        self._price_of = price_of
        self._open: dict[str, SpotOrder] = {}
        self._order_ids = itertools.count(1)
        self._trade_ids = itertools.count(1)

    # --- balances -----------------------------------------------------------------------------

    def locked(self, asset: str) -> Decimal:
        """Units of an asset that open orders may still spend."""
        return sum((self._needs(order, order.remaining, asset) for order in self._open.values()), ZERO)

    def free(self, asset: str) -> Decimal:
        """Units of an asset that a new order may spend."""
        return self.account.total(asset) - self.locked(asset)

    def _needs(self, order: SpotOrder, quantity: Decimal, asset: str) -> Decimal:
        instrument = self.instruments[order.intent.symbol]
        if order.intent.side is Side.SELL:
            return quantity if asset == instrument.base else ZERO
        return quantity * self._worst_price(order.intent) if asset == instrument.quote else ZERO

    def _worst_price(self, intent: OrderIntent) -> Decimal:
        return intent.limit_price or intent.stop_price or Decimal(str(self._price_of(intent.symbol)))

    def balances(self) -> list[Message]:
        """Return every asset with what is free and locked, as /account lists it."""
        return [
            {"asset": asset, "free": text(self.free(asset)), "locked": text(self.locked(asset))}
            for asset in sorted(self.account.assets)
        ]

    def position_message(self, symbols: Iterable[str], ts_ms: int) -> Message:
        """Return outboundAccountPosition of the assets that `symbols` trade."""
        assets: set[str] = set()
        for symbol in symbols:
            assets |= {self.instruments[symbol].base, self.instruments[symbol].quote}
        self.updated_ms = ts_ms
        rows = [{"a": a, "f": text(self.free(a)), "l": text(self.locked(a))} for a in sorted(assets)]
        return {"e": "outboundAccountPosition", "E": ts_ms, "u": ts_ms, "B": rows}

    # --- orders -------------------------------------------------------------------------------

    def submit(
        self, intent: OrderIntent, kind: str, client_id: str, quote: Decimal, ts_ms: int
    ) -> tuple[SpotOrder, list[Message]]:
        """Take an order; VenueError (-2010) when the balance is short or the client id is taken."""
        order_id = next(self._order_ids)
        order = SpotOrder(
            order_id=order_id,
            client_id=client_id,
            intent=intent,
            type=kind,
            time_ms=ts_ms,
            update_ms=ts_ms,
            quote_quantity=quote,
        )
        if any(other.client_id == client_id for other in self._open.values()):
            raise VenueError.from_reason("-2010 Duplicate order sent.")
        instrument = self.instruments[intent.symbol]
        asset = instrument.base if intent.side is Side.SELL else instrument.quote
        if self._needs(order, intent.quantity, asset) > self.free(asset):
            raise VenueError.from_reason(_POOR)
        sent = Order(
            client_order_id=str(order_id), intent=intent, ordinal=order_id, created_ms=ts_ms, updated_ms=ts_ms
        )
        events = self._core.submit(sent, ts_ms)
        for event in events:
            if isinstance(event, OrderRejected):
                code, _, said = event.reason.partition(" ")
                raise VenueError.from_reason(f"-2010 {_REFUSALS.get(code, said or event.reason)}")
        self.orders.append(order)
        self._open[str(order_id)] = order
        return order, self._fold(events, ts_ms)

    def cancel(self, order: SpotOrder, ts_ms: int) -> list[Message]:
        """Cancel an open order; VenueError (-2011) when it is not open."""
        if not order.is_open:
            raise VenueError(-2011)
        return self._fold(self._core.cancel(str(order.order_id), ts_ms), ts_ms)

    def find(self, symbol: str, order_id: int | None, client_id: str | None) -> SpotOrder | None:
        """Return the newest order of that id, None when there never was one."""
        for order in reversed(self.orders):
            if order.intent.symbol == symbol and (
                order.order_id == order_id if order_id is not None else order.client_id == client_id
            ):
                return order
        return None

    def open_orders(self, symbol: str | None = None) -> list[SpotOrder]:
        """Return the working orders, of `symbol` or of all."""
        return [order for order in self._open.values() if symbol in {None, order.intent.symbol}]

    # --- market -------------------------------------------------------------------------------

    def on_price(
        self, symbol: str, price: float, ts_ms: int, available: Decimal | None = None
    ) -> list[Message]:
        """Let a trade price of the market act on the orders; return what the user stream tells."""
        return self._fold(self._core.on_price(symbol, price, ts_ms, available), ts_ms)

    def _fold(self, events: Iterable[AnyEvent], ts_ms: int) -> list[Message]:
        told: list[Message] = []
        symbols: set[str] = set()
        for event in events:
            if isinstance(event, OrderFilled):
                order = self._open[event.client_order_id]
                told.append(self._fill(order, event, ts_ms))
            elif isinstance(event, OrderAccepted):
                order = self._open[event.client_order_id]
                told.append(execution_report(order, "NEW", ts_ms))
            elif isinstance(event, OrderCanceled | OrderExpired | OrderRejected):
                order = self._open[event.client_order_id]
                order.status = "CANCELED" if isinstance(event, OrderCanceled) else "EXPIRED"
                order.update_ms = ts_ms
                told.append(execution_report(order, order.status, ts_ms))
            else:
                continue
            symbols.add(order.intent.symbol)
            if not order.is_open:
                self._open.pop(str(order.order_id), None)
        if symbols:
            told.append(self.position_message(symbols, ts_ms))
        return told

    def _fill(self, order: SpotOrder, event: OrderFilled, ts_ms: int) -> Message:
        instrument = self.instruments[order.intent.symbol]
        value = event.quantity * event.price
        is_buy = order.intent.side is Side.BUY
        received = event.quantity if is_buy else value
        rate = self.fees.maker if event.is_maker else self.fees.taker
        trade = SpotTrade(
            trade_id=next(self._trade_ids),
            order_id=order.order_id,
            symbol=order.intent.symbol,
            side=order.intent.side,
            price=event.price,
            quantity=event.quantity,
            fee=(received * rate).quantize(_FEE_STEP, ROUND_HALF_UP),
            fee_asset=instrument.base if is_buy else instrument.quote,
            time_ms=ts_ms,
            is_maker=event.is_maker,
        )
        self.trades.append(trade)
        self.account.move(instrument.base, event.quantity if is_buy else -event.quantity)
        self.account.move(instrument.quote, -value if is_buy else value)
        self.account.move(trade.fee_asset, -trade.fee)
        order.executed += event.quantity
        order.value += value
        order.status = "FILLED" if order.remaining <= 0 else "PARTIALLY_FILLED"
        order.update_ms = ts_ms
        return execution_report(order, "TRADE", ts_ms, trade)
