"""Where intents become orders and the venue's news of them is folded."""

from typing import TYPE_CHECKING

from qmtl.core import event as ev
from qmtl.core.command import CancelOrder, RequestReconcile, SubmitOrder
from qmtl.core.money import ZERO
from qmtl.core.order import DONE, UNSETTLED, Order, OrderIntent, OrderStatus, Role
from qmtl.core.order_payload import mint_client_order_id
from qmtl.core.reason import TradingState
from qmtl.engine.risk import Refused, assess, is_reducing, is_strictly_reducing, passes_halt
from qmtl.engine.state import ENTERED, EXITED, REFUSED, BarNotes

if TYPE_CHECKING:
    from qmtl.engine.engine import Engine

_SUBMITTED = OrderStatus.SUBMITTED
_ACCEPTED = OrderStatus.ACCEPTED
_PENDING_CANCEL = OrderStatus.PENDING_CANCEL
_FILLED = OrderStatus.FILLED
_UNKNOWN = OrderStatus.UNKNOWN
_REJECTED = OrderStatus.REJECTED
_ENTRY, _EXIT = Role.ENTRY, Role.EXIT
_RESTING = frozenset({Role.STOP, Role.TARGET})
"""Placed with the entry: they leave a position when they fill, not when they are sent."""
_STRATEGY_ROLES = frozenset({Role.ENTRY, Role.EXIT, Role.STOP, Role.TARGET})
_ENDINGS: dict[type[ev.Event], OrderStatus] = {
    ev.OrderCanceled: OrderStatus.CANCELED,
    ev.OrderExpired: OrderStatus.EXPIRED,
    ev.OrderRejected: OrderStatus.REJECTED,
}


class OrderDesk:
    """Sends and cancels for one engine, and moves its orders as the venue reports them."""

    def __init__(self, engine: "Engine") -> None:
        """Serve `engine`."""
        self._engine = engine
        self._state = engine.state
        self._risk = engine.risk
        self._account = engine.account
        self._orders = engine.orders

    # --- going out ---------------------------------------------------------------------------------

    def submit(self, intent: OrderIntent) -> Order | None:
        """Pass an intent through risk; record it and command its sending, or record its refusal."""
        engine, risk, state = self._engine, self._risk, self._state
        if not engine.is_open and intent.role in _STRATEGY_ROLES:
            return None
        setup = state.setup
        if setup is None:
            message = "no session was started: process(SessionStarted) comes first"
            raise RuntimeError(message)
        is_entry = intent.role is _ENTRY and not is_reducing(intent, risk.account)
        verdict = assess(intent, risk, setup.limits)
        now = risk.now_ms
        if isinstance(verdict, Refused):
            engine.record(ev.IntentRefused(now, verdict.code, verdict.detail, intent))
            self.note_gate(intent.symbol, verdict.code)
            return None
        state.ordinal = ordinal = state.ordinal + 1
        key = mint_client_order_id(state.epoch, setup.world, engine.strategy.name, ordinal, intent)
        order = Order(
            client_order_id=key,
            intent=intent,
            ordinal=ordinal,
            created_ms=now,
            updated_ms=now,
            status=_SUBMITTED,
        )
        self._orders.add(order)
        engine.record(ev.IntentRecorded(now, key, ordinal, intent))
        engine.command(SubmitOrder(order))
        if is_entry:
            if setup.limits.orders_per_minute is not None:
                risk.sent_ms.append(now)
            self._note(intent.symbol, ENTERED)
        elif intent.role is _EXIT or intent.role is _ENTRY:
            self._note(intent.symbol, EXITED)
        return order

    def cancel(self, order: Order) -> None:
        """Command a cancel; an order not yet acknowledged is cancelled once it is."""
        status = order.status
        if status in DONE or status is _PENDING_CANCEL:
            return
        if status in UNSETTLED:
            self._want_cancel(order)
            return
        self._orders.move(order, _PENDING_CANCEL, self._risk.now_ms)
        self._engine.command(CancelOrder(order))

    def cancel_entries(self) -> None:
        """Cancel every working order that could open a position."""
        for order in list(self._risk.working.values()):
            if not is_strictly_reducing(order.intent):
                self.cancel(order)

    def find_ban(self, order: Order) -> str:
        """Return why an order that is decided but not sent must not go any more; empty when it may.

        A venue that asks for patience may hold an order back for a minute, and much happens in a minute.
        """
        if self._risk.state is TradingState.HALTED and not passes_halt(order.intent):
            return "halted before it was sent"
        if order.client_order_id in self._state.cancel_wanted:
            return "cancelled before it was sent"
        return ""

    def note_gate(self, symbol: str, gate: str) -> None:
        """Keep that a signal of the forming bar was refused, and by which gate."""
        notes = self._note(symbol, REFUSED)
        if not notes.gate:
            notes.gate = gate

    def note_why(self, symbol: str, why: str) -> None:
        """Keep what the strategy wrote down about the forming bar."""
        notes = self._note(symbol, 0)
        notes.why = f"{notes.why}; {why}" if notes.why else why

    def _note(self, symbol: str, what: int) -> BarNotes:
        notes = self._state.notes.get(symbol)
        if notes is None:
            notes = self._state.notes[symbol] = BarNotes()
        notes.acted |= what
        return notes

    def _want_cancel(self, order: Order) -> None:
        if order.client_order_id not in self._state.cancel_wanted:
            self._state.cancel_wanted.append(order.client_order_id)

    # --- coming in ---------------------------------------------------------------------------------

    def on_accepted(self, event: ev.OrderAccepted) -> None:
        """Fold an acknowledgement, also one that comes late or twice."""
        key = event.client_order_id
        order = self._risk.working.get(key) or self._known(key, "accepted")
        if order is None:
            return
        if event.venue_order_id:
            order.venue_order_id = event.venue_order_id
        self.move(order, _ACCEPTED)
        if order.status is _REJECTED:
            self._engine.command(
                RequestReconcile(f"order {order.client_order_id} was taken after its rejection")
            )

    def on_filled(self, fill: ev.OrderFilled) -> None:
        """Fold a fill into account, position and order, once per trade id."""
        engine, account, state = self._engine, self._account, self._state
        key = fill.client_order_id
        order = self._risk.working.get(key) or self._orders.find(key)
        if order is None:
            engine.reconciliation.on_foreign_fill(fill)
            return
        if fill.trade_id in order.trade_ids:
            return
        position = account.position(fill.symbol, fill.position_side)
        fee = fill.fee if fill.fee_asset == account.asset else ZERO
        account.fill(position, fill.side, fill.quantity, fill.price, fee, fill.ts_ms)
        account.check_conservation()
        if fill.ts_ms > state.fills_ms and not self._risk.entry_bans:
            # While a stream is away others may be missing: what is known ends where it ended.
            state.fills_ms = fill.ts_ms
        if state.drifts:
            engine.reconciliation.forget_settled_drifts()
        status = self._orders.fold_fill(order, fill, fee, is_flat=not position.quantity)
        if status is not order.status:
            self.move(order, status)
        role = order.intent.role
        if role in _RESTING:
            self._note(order.intent.symbol, EXITED)
        if engine.wants_fill and role in _STRATEGY_ROLES:
            engine.tell_fill(fill, order)
        if state.setup is not None and state.setup.catastrophe_stop is not None:
            engine.guard.on_position(position)

    def on_ended(self, event: ev.OrderCanceled | ev.OrderExpired | ev.OrderRejected) -> None:
        """Fold the end of an order."""
        status = _ENDINGS[event.__class__]
        order = self._known(event.client_order_id, status)
        if order is not None:
            self.move(order, status, event.reason)

    def on_unsettled(self, event: ev.OrderUnsettled) -> None:
        """Block the order's instrument and ask the venue what became of it."""
        order = self._known(event.client_order_id, "unsettled")
        if order is not None and self.move(order, _UNKNOWN, event.reason):
            self._engine.command(RequestReconcile(f"order {order.client_order_id} is unsettled"))

    def on_cancel_rejected(self, event: ev.CancelRejected) -> None:
        """Put the order back to work; the wish to cancel it stays until a reconciliation tells more."""
        order = self._known(event.client_order_id, "cancel rejected")
        if order is None or order.status is not _PENDING_CANCEL:
            return
        back = OrderStatus.PARTIALLY_FILLED if order.filled else _ACCEPTED
        self._orders.move(order, back, self._risk.now_ms, event.reason)
        self._want_cancel(order)
        self._engine.command(RequestReconcile(f"cancel of {order.client_order_id}: {event.reason}"))
        self._tell(order)

    def on_stated_open(self, order: Order, venue_order_id: str) -> None:
        """Take the venue's word that a known order is open: settle it, and repeat a cancel that was lost."""
        if venue_order_id:
            order.venue_order_id = venue_order_id
        if order.status is _PENDING_CANCEL:
            # A cancel that was decided, and then the process died before it left.
            self._engine.command(CancelOrder(order))
        elif order.status in UNSETTLED:
            self.move(order, _ACCEPTED)
        else:
            self._cancel_if_wanted(order)

    def move(self, order: Order, status: OrderStatus, reason: str = "") -> bool:
        """Move an order as news says and tell who cares; False where the news is old or forbidden."""
        was = order.status
        # No news of an order just sent is stale, and no fill of any order: most news is one of the two.
        if status is was or (
            was is not _SUBMITTED and status is not _FILLED and self._orders.is_stale_news(order, status)
        ):
            return False
        if not self._orders.move(order, status, self._risk.now_ms, reason):
            self._engine.error("illegal_transition", f"{was} -> {status}", order.client_order_id)
            return False
        if self._engine.wants_order or order.intent.role not in _STRATEGY_ROLES:
            self._tell(order)
        if self._state.cancel_wanted:
            self._cancel_if_wanted(order)
        return True

    def _cancel_if_wanted(self, order: Order) -> None:
        wanted = self._state.cancel_wanted
        if order.status not in UNSETTLED and order.client_order_id in wanted:
            wanted.remove(order.client_order_id)
            self.cancel(order)

    def _tell(self, order: Order) -> None:
        if order.intent.role not in _STRATEGY_ROLES:
            self._engine.guard.on_order(order)
        elif self._engine.wants_order:
            self._engine.tell_order(order)

    def _known(self, client_order_id: str, what: str) -> Order | None:
        order = self._orders.find(client_order_id)
        if order is None:
            self._engine.record(ev.ErrorRecorded(self._risk.now_ms, "unknown_order", what, client_order_id))
        return order
