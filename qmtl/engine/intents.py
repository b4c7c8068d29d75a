"""Where every intent of a journal stands: its order, the account's position, its blocked instruments."""

from decimal import Decimal

import msgspec

from qmtl.core import event as ev
from qmtl.core.account import Account
from qmtl.core.instrument import parse_symbol
from qmtl.core.money import ZERO
from qmtl.core.order import DONE, TRANSITIONS, UNSETTLED, Order, OrderStatus
from qmtl.engine.risk import RiskAccount

KEPT = 20_000
"""Orders kept in memory; older ended ones are read from the journal again when somebody asks."""

_EVENTS: dict[type[ev.Event], OrderStatus] = {
    ev.OrderAccepted: OrderStatus.ACCEPTED,
    ev.OrderCanceled: OrderStatus.CANCELED,
    ev.OrderExpired: OrderStatus.EXPIRED,
    ev.OrderRejected: OrderStatus.REJECTED,
    ev.OrderUnsettled: OrderStatus.UNKNOWN,
}


class IntentEntry(msgspec.Struct):
    """One intent: its order, whose account it is for, the body it was sent with (canonical JSON)."""

    order: Order
    account: str = ""
    body: str = ""
    attempt: int = 1


def symbol_key(symbol: str) -> str:
    """Return one spelling of `BTC/USDT`, `btcusdt` and the like, so that a block has no other name."""
    try:
        return parse_symbol(symbol)
    except ValueError:
        return symbol.strip().upper()


class Intents:
    """Folds a journal's events; one RiskAccount per account, illegal moves change nothing."""

    def __init__(self) -> None:
        """Start empty."""
        self.entries: dict[str, IntentEntry] = {}
        self.by_venue_id: dict[tuple[str, str], str] = {}
        self.has_forgotten = False
        self._risks: dict[str, RiskAccount] = {}
        self._state: ev.StateChanged | None = None

    def risk(self, account: str) -> RiskAccount:
        """Return what risk looks at for `account`."""
        risk = self._risks.get(account)
        if risk is None:
            risk = self._risks[account] = RiskAccount(account=Account())
            if self._state is not None:
                risk.state, risk.state_why = self._state.state, self._state.why
        return risk

    def add(self, event: ev.IntentRecorded) -> IntentEntry:
        """Keep a new intent as INITIALIZED: it is not durable yet."""
        order = Order(
            client_order_id=event.client_order_id,
            intent=event.intent,
            ordinal=event.ordinal,
            created_ms=event.ts_ms,
            updated_ms=event.ts_ms,
        )
        entry = IntentEntry(order, event.account, event.body)
        self.entries[order.client_order_id] = entry
        self.risk(entry.account).working[order.client_order_id] = order
        if len(self.entries) > KEPT:
            oldest = next((key for key, old in self.entries.items() if old.order.is_done), None)
            if oldest is not None:
                del self.entries[oldest]
                self.has_forgotten = True
        return entry

    def fold(self, event: ev.AnyEvent) -> None:
        """Take one recorded event; kinds that say nothing about orders change nothing."""
        if isinstance(event, ev.StateChanged):
            self._state = event
            for risk in self._risks.values():
                risk.state, risk.state_why = event.state, event.why
            return
        if isinstance(event, ev.IntentRecorded):
            entry = self.entries.get(event.client_order_id) or self.add(event)
            self.move(entry, OrderStatus.SUBMITTED, event.ts_ms)
            return
        known = self.entries.get(getattr(event, "client_order_id", ""))
        if known is None:
            return
        if isinstance(event, ev.OrderReported):
            self._report(known, event)
        elif known.body:
            # News the engine heard of a client's order: the client's own report counts it.
            return
        elif isinstance(event, ev.OrderFilled):
            if event.trade_id not in known.order.trade_ids:
                known.order.trade_ids.append(event.trade_id)
                self._fill(known, event.quantity, event.price, event.fee, event.ts_ms)
        elif (status := _EVENTS.get(type(event))) is not None:
            self._name(known, getattr(event, "venue_order_id", ""))
            self.move(known, status, event.ts_ms, getattr(event, "reason", ""))

    def _report(self, entry: IntentEntry, event: ev.OrderReported) -> None:
        order = entry.order
        if event.attempt > entry.attempt:
            entry.attempt = event.attempt
            order.status, order.reason = OrderStatus.INITIALIZED, ""
            self.risk(entry.account).working[order.client_order_id] = order
        self._name(entry, event.venue_order_id)
        if event.filled > order.filled:
            price = event.average_price or order.intent.limit_price or order.intent.stop_price or ZERO
            delta = event.filled - order.filled
            value = event.filled * price - order.filled_value
            self._fill(entry, delta, value / delta, event.fee - order.fee, event.ts_ms)
        self.move(entry, event.status, event.ts_ms, event.reason)

    def _fill(self, entry: IntentEntry, quantity: Decimal, price: Decimal, fee: Decimal, ts_ms: int) -> None:
        order, account = entry.order, self.risk(entry.account).account
        intent = order.intent
        account.fill(
            account.position(intent.symbol, intent.position_side), intent.side, quantity, price, fee, ts_ms
        )
        order.filled += quantity
        order.filled_value += quantity * price
        order.fee += fee
        is_whole = order.filled >= intent.quantity
        self.move(entry, OrderStatus.FILLED if is_whole else OrderStatus.PARTIALLY_FILLED, ts_ms)

    def _name(self, entry: IntentEntry, venue_order_id: str) -> None:
        if venue_order_id:
            entry.order.venue_order_id = venue_order_id
            self.by_venue_id[entry.account, venue_order_id] = entry.order.client_order_id

    def move(self, entry: IntentEntry, status: OrderStatus, ts_ms: int, reason: str = "") -> None:
        """Move an order along the transition table, and block or free its instrument."""
        order = entry.order
        if status is order.status or status not in TRANSITIONS[order.status]:
            return
        was_unknown = order.status is OrderStatus.UNKNOWN
        order.status, order.updated_ms = status, ts_ms
        order.reason = reason or order.reason
        risk, symbol = self.risk(entry.account), order.intent.symbol
        if status is OrderStatus.UNKNOWN:
            risk.blocked[symbol] = f"order {order.client_order_id} is unsettled: {order.reason}"
        elif was_unknown and not any(
            other.status is OrderStatus.UNKNOWN and other.intent.symbol == symbol
            for other in risk.working.values()
        ):
            risk.blocked.pop(symbol, None)
        if status in DONE:
            risk.working.pop(order.client_order_id, None)

    def unsettled(self, account: str) -> list[IntentEntry]:
        """Return the clients' orders of `account` whose outcome is not known, and those not durable yet."""
        doubtful = UNSETTLED | {OrderStatus.INITIALIZED}
        mine = (e for e in self.entries.values() if e.body and e.account == account)
        return [entry for entry in mine if entry.order.status in doubtful]
