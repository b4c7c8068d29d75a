"""One futures account: its orders on the matching core, and what it tells the user stream."""

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from itertools import count
from typing import Any

import msgspec

from qmtl.core.event import (
    AnyEvent,
    CancelRejected,
    FundingPaid,
    OrderAccepted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    Transferred,
)
from qmtl.core.instrument import Instrument
from qmtl.core.order import Order, OrderIntent, OrderType
from qmtl.engine.matching import MatchingCore
from qmtl.engine.venue_models import VenueModels
from qmtl.services.paper_exchange import user_stream
from qmtl.services.paper_exchange.errors import VenueError
from qmtl.services.paper_exchange.ledger import Ledger
from qmtl.services.paper_exchange.listing import MAX_ALGO_ORDERS, MAX_OPEN_ORDERS
from qmtl.services.paper_exchange.records import (
    AlgoRecord,
    FillRecord,
    OrderRecord,
    became,
)
from qmtl.services.paper_exchange.settings import PaperExchangeConfig

Send = Callable[[dict[str, Any]], None]


class PaperAccount:
    """Orders, conditional orders, fills and income of one API key.

    The matching core knows orders by the venue's order id; a conditional order keeps that id when it is
    triggered. `send` takes the messages of the user stream, in order.
    """

    def __init__(
        self,
        key: str,
        secret: str,
        *,
        config: PaperExchangeConfig,
        instruments: Mapping[str, Instrument],
        send: Send,
    ) -> None:
        self.key = key
        self.secret = secret
        self.asset = "USDT"
        self.core = MatchingCore(
            instruments,
            models=VenueModels(fees=config.fees, liquidity=config.liquidity, path=config.candle_path),
            first_wallet=config.balance,
            leverage=config.leverage,
            margin_mode="cross",
        )
        self.ledger = Ledger(self.core, self.asset)
        self.orders: dict[int, OrderRecord] = {}
        self.algos: dict[int, AlgoRecord] = {}
        self.fills: list[FillRecord] = []
        self.countdowns: dict[str, int] = {}
        self.is_multi_assets = False
        self.update_ms = 0
        self._send = send
        self._open: dict[str, OrderRecord] = {}
        self._by_client: dict[str, int] = {}
        self._open_algos: dict[str, AlgoRecord] = {}
        self._algo_of: dict[int, AlgoRecord] = {}
        self._order_ids = count(1_000_001)
        self._algo_ids = count(2_000_001)

    # --- commands -----------------------------------------------------------------------------

    def place(self, intent: OrderIntent, client_id: str, ts_ms: int) -> OrderRecord:
        """Take an order and return it as it stands after its first fills; VenueError when refused."""
        if client_id in self._open:
            raise VenueError(-4116)
        if len(self._open) >= MAX_OPEN_ORDERS:
            raise VenueError(-2025)
        record = OrderRecord(
            order_id=next(self._order_ids),
            client_id=client_id,
            intent=intent,
            time_ms=ts_ms,
            update_ms=ts_ms,
            type=intent.type,
            original_type=intent.type,
        )
        self.orders[record.order_id] = record
        events = self._submit(record.order_id, intent, ts_ms)
        self._by_client[client_id] = record.order_id
        self.fold(events, ts_ms)
        return record

    def place_algo(
        self, intent: OrderIntent, client_id: str, ts_ms: int, *, is_protected: bool
    ) -> AlgoRecord:
        """Take a conditional order; VenueError when refused or when it would trigger at once."""
        if client_id in self._open_algos:
            raise VenueError(-4116)
        if len(self._open_algos) >= MAX_ALGO_ORDERS:
            raise VenueError(-4045)
        if intent.close_position and any(_is_same_closer(intent, r.intent) for r in self.open_algos()):
            raise VenueError(-4130)
        record = AlgoRecord(
            algo_id=next(self._algo_ids),
            client_id=client_id,
            intent=intent,
            create_ms=ts_ms,
            update_ms=ts_ms,
            order_id=next(self._order_ids),
            is_price_protected=is_protected,
        )
        self._algo_of[record.order_id] = record
        events = self._submit(record.order_id, intent, ts_ms)
        self.algos[record.algo_id] = record
        self._open_algos[client_id] = record
        self._send(user_stream.algo_update(record, None, ts_ms))
        self.fold(events, ts_ms)
        self.check_triggers(ts_ms)
        return record

    def _submit(self, order_id: int, intent: OrderIntent, ts_ms: int) -> list[AnyEvent]:
        order = Order(
            client_order_id=str(order_id), intent=intent, ordinal=0, created_ms=ts_ms, updated_ms=ts_ms
        )
        events = self.core.submit(order, ts_ms)
        if events and isinstance(events[0], OrderRejected):
            self.orders.pop(order_id, None)
            self._algo_of.pop(order_id, None)
            raise VenueError.from_reason(events[0].reason)
        return events

    def cancel(self, record: OrderRecord, ts_ms: int) -> OrderRecord:
        """Cancel an open order; VenueError -2011 when it is none."""
        if not record.is_open:
            raise VenueError(-2011)
        self._cancel(record.order_id, ts_ms)
        return record

    def cancel_algo(self, record: AlgoRecord, ts_ms: int) -> None:
        """Cancel a conditional order that waits; VenueError -2011 when it does not."""
        if not record.is_open:
            raise VenueError(-2011)
        self._cancel(record.order_id, ts_ms)

    def _cancel(self, order_id: int, ts_ms: int) -> None:
        events = self.core.cancel(str(order_id), ts_ms)
        for event in events:
            if isinstance(event, CancelRejected):
                raise VenueError.from_reason(event.reason)
        self.fold(events, ts_ms)

    def amend(self, record: OrderRecord, intent: OrderIntent, ts_ms: int) -> OrderRecord:
        """Give an open limit order another price or quantity; it loses its place and keeps its fills.

        VenueError when the new terms are refused; the order then stands as it was.
        """
        if not record.is_open or record.type is not OrderType.LIMIT:
            raise VenueError(-2013)
        if (intent.limit_price, intent.quantity) == (record.intent.limit_price, record.intent.quantity):
            raise VenueError(-5027)
        self.core.cancel(str(record.order_id), ts_ms)
        rest = msgspec.structs.replace(intent, quantity=intent.quantity - record.executed)
        try:
            events = self._submit_again(record, rest, ts_ms)
        except VenueError:
            old = msgspec.structs.replace(record.intent, quantity=record.intent.quantity - record.executed)
            self._submit_again(record, old, ts_ms)
            raise
        record.intent = intent
        record.update_ms = ts_ms
        record.amendments += 1
        self._send(user_stream.order_trade_update(record, "AMENDMENT", ts_ms))
        self.fold([event for event in events if not isinstance(event, OrderAccepted)], ts_ms)
        return record

    def _submit_again(self, record: OrderRecord, intent: OrderIntent, ts_ms: int) -> list[AnyEvent]:
        events = self._submit(record.order_id, intent, ts_ms)
        self.orders[record.order_id] = record
        return events

    # --- lookups ------------------------------------------------------------------------------

    def open_orders(self, symbol: str | None = None) -> list[OrderRecord]:
        """Return working orders, oldest first."""
        return [r for r in self._open.values() if symbol in {None, r.intent.symbol}]

    def open_algos(self, symbol: str | None = None) -> list[AlgoRecord]:
        """Return conditional orders that wait, oldest first."""
        return [r for r in self._open_algos.values() if symbol in {None, r.intent.symbol}]

    def find(self, symbol: str, order_id: int | None, client_id: str | None) -> OrderRecord | None:
        """Return an order by its id or, newest first, by its client id."""
        if order_id is None and client_id is not None:
            order_id = self._by_client.get(client_id)
        record = self.orders.get(order_id) if order_id is not None else None
        return record if record is not None and record.intent.symbol == symbol else None

    def find_algo(self, algo_id: int | None, client_id: str | None) -> AlgoRecord | None:
        """Return a conditional order by its id or client id."""
        if algo_id is not None:
            return self.algos.get(algo_id)
        if client_id in self._open_algos:
            return self._open_algos[client_id]
        return next((r for r in reversed(self.algos.values()) if r.client_id == client_id), None)

    def order_of(self, record: AlgoRecord) -> OrderRecord | None:
        """Return the order a conditional order became, None while it waits."""
        return self.orders.get(record.order_id)

    # --- events -------------------------------------------------------------------------------

    def fold(self, events: Iterable[AnyEvent], ts_ms: int) -> None:
        """Book what the core says happened, and tell the user stream."""
        for event in events:
            self.update_ms = ts_ms
            if isinstance(event, OrderFilled):
                self._fill(event, ts_ms)
            elif isinstance(event, OrderAccepted):
                self._accept(event, ts_ms)
            elif isinstance(event, OrderCanceled):
                self._finish(event.client_order_id, "CANCELED", event.reason, ts_ms)
            elif isinstance(event, OrderExpired | OrderRejected):
                self._finish(event.client_order_id, "EXPIRED", event.reason, ts_ms)
            elif isinstance(event, FundingPaid):
                self._send(self.ledger.fund(event, ts_ms))
            elif isinstance(event, Transferred):
                self._send(self.ledger.transfer(event, ts_ms))

    def check_triggers(self, ts_ms: int) -> None:
        """Turn conditional orders that the core has triggered into orders."""
        for record in tuple(self._open_algos.values()):
            working = self.core.find_order(str(record.order_id))
            if working is not None and working.is_triggered:
                self._trigger(record, working.quantity, ts_ms)

    def check_margin(self, ts_ms: int) -> None:
        """Warn of positions that came close to liquidation."""
        call = self.ledger.margin_call(ts_ms)
        if call is not None:
            self._send(call)

    def _accept(self, event: OrderAccepted, ts_ms: int) -> None:
        record = self.orders.get(int(event.client_order_id)) if event.client_order_id.isdigit() else None
        if record is not None:
            self._open[record.client_id] = record
            self._send(user_stream.order_trade_update(record, "NEW", ts_ms))

    def _trigger(self, algo: AlgoRecord, quantity: Decimal, ts_ms: int) -> OrderRecord:
        intent = algo.intent
        if intent.close_position:
            intent = msgspec.structs.replace(intent, quantity=quantity)
        record = OrderRecord(
            order_id=algo.order_id,
            client_id=algo.client_id,
            intent=intent,
            time_ms=ts_ms,
            update_ms=ts_ms,
            type=became(intent),
            original_type=intent.type,
            algo_id=algo.algo_id,
        )
        self.orders[record.order_id] = record
        self._open[record.client_id] = record
        self._by_client[record.client_id] = record.order_id
        self._open_algos.pop(algo.client_id, None)
        algo.trigger_ms = algo.update_ms = ts_ms
        for status in ("TRIGGERING", "TRIGGERED"):
            algo.status = status
            self._send(user_stream.algo_update(algo, record if status == "TRIGGERED" else None, ts_ms))
        self._send(user_stream.order_trade_update(record, "NEW", ts_ms))
        return record

    def _record_of(self, event: OrderFilled, ts_ms: int) -> OrderRecord:
        """Return the order a fill belongs to; a liquidation is the venue's own order."""
        if event.client_order_id.isdigit():
            order_id = int(event.client_order_id)
            found = self.orders.get(order_id)
            if found is None:
                working = self.core.find_order(event.client_order_id)
                quantity = event.quantity if working is None else working.quantity
                return self._trigger(self._algo_of[order_id], quantity, ts_ms)
            return found
        known = self._by_client.get(event.client_order_id)
        if known is not None:
            return self.orders[known]
        intent = OrderIntent(
            symbol=event.symbol,
            side=event.side,
            quantity=event.quantity,
            type=OrderType.LIMIT,
            limit_price=event.price,
            position_side=event.position_side,
            reduce_only=True,
        )
        record = OrderRecord(
            order_id=next(self._order_ids),
            client_id=event.client_order_id,
            intent=intent,
            time_ms=ts_ms,
            update_ms=ts_ms,
        )
        self.orders[record.order_id] = record
        self._by_client[record.client_id] = record.order_id
        return record

    def _fill(self, event: OrderFilled, ts_ms: int) -> None:
        record = self._record_of(event, ts_ms)
        is_liquidation = not event.client_order_id.isdigit()
        realized = self.ledger.fill(event, ts_ms, is_liquidation=is_liquidation)
        record.executed += event.quantity
        record.value += event.quantity * event.price
        record.update_ms = ts_ms
        is_done = record.executed >= record.intent.quantity
        record.status = "FILLED" if is_done else "PARTIALLY_FILLED"
        if is_done:
            self._open.pop(record.client_id, None)
        fill = FillRecord(
            trade_id=int(event.trade_id),
            order_id=record.order_id,
            client_id=record.client_id,
            symbol=event.symbol,
            side=event.side,
            position_side=event.position_side.value,
            price=event.price,
            quantity=event.quantity,
            fee=event.fee,
            fee_asset=event.fee_asset,
            realized=realized,
            time_ms=ts_ms,
            is_maker=event.is_maker,
        )
        self.fills.append(fill)
        self._send(user_stream.trade_lite(fill, record, ts_ms))
        execution = "CALCULATED" if is_liquidation else "TRADE"
        self._send(user_stream.order_trade_update(record, execution, ts_ms, fill))
        position = self.ledger.position(event.symbol, event.position_side)
        self._send(self.ledger.account_update("ORDER", ts_ms, [position]))
        self._finish_algo(record, ts_ms)

    def _finish(self, client_order_id: str, status: str, reason: str, ts_ms: int) -> None:
        order_id = int(client_order_id)
        record = self.orders.get(order_id)
        if record is None:
            algo = self._algo_of[order_id]
            algo.status = status
            algo.update_ms = ts_ms
            self._open_algos.pop(algo.client_id, None)
            self._send(user_stream.algo_update(algo, None, ts_ms, reason))
            return
        record.status = status
        record.update_ms = ts_ms
        self._open.pop(record.client_id, None)
        self._send(user_stream.order_trade_update(record, status, ts_ms))
        self._finish_algo(record, ts_ms)

    def _finish_algo(self, record: OrderRecord, ts_ms: int) -> None:
        if record.algo_id and not record.is_open:
            algo = self.algos[record.algo_id]
            algo.status = "FINISHED"
            algo.update_ms = ts_ms
            self._send(user_stream.algo_update(algo, record, ts_ms))


def _is_same_closer(one: OrderIntent, other: OrderIntent) -> bool:
    """Tell whether both would close the same position for the same reason: stop or take profit."""
    return other.close_position and (one.symbol, one.side, one.position_side, one.type) == (
        other.symbol,
        other.side,
        other.position_side,
        other.type,
    )
