"""The one loop: events in, commands out. No await, no clock read; replaying a journal is recovery."""

from collections.abc import Callable
from typing import Any

from qmtl.core import event as ev
from qmtl.core.account import Account
from qmtl.core.interval import DAY_MS
from qmtl.core.order import Order, OrderIntent, OrderStatus, Role
from qmtl.core.order_payload import mint_client_order_id
from qmtl.core.reason import Reason, TradingState
from qmtl.engine.context import EngineContext
from qmtl.engine.guard import Guard
from qmtl.engine.orders import Orders
from qmtl.engine.ports import EventJournal
from qmtl.engine.reconciliation import Reconciliation
from qmtl.engine.risk import Approved, RiskAccount, assess, is_reducing
from qmtl.engine.state import (
    ENTERED,
    EXITED,
    REFUSED,
    BarNotes,
    EngineState,
    dump_state,
    hash_state,
    parse_state,
)
from qmtl.engine.strategy import SilentStrategy, StrategyPort

_SUBMITTED = OrderStatus.SUBMITTED
_ACCEPTED = OrderStatus.ACCEPTED
_PENDING_CANCEL = OrderStatus.PENDING_CANCEL
_UNKNOWN = OrderStatus.UNKNOWN
_DEAD = frozenset({OrderStatus.FILLED, OrderStatus.CANCELED, OrderStatus.EXPIRED, OrderStatus.REJECTED})
_ENTRY = Role.ENTRY
_ACTIVE = TradingState.ACTIVE
_STRATEGY_ROLES = frozenset({Role.ENTRY, Role.EXIT, Role.STOP, Role.TARGET})
_CLOCK_LIMIT_MS = 1_000


class Engine:
    """One account, one strategy, one journal: `process` folds an event and returns what to do."""

    def __init__(
        self, strategy: StrategyPort, journal: EventJournal, state: EngineState | None = None
    ) -> None:
        """Start from `state` (a restored snapshot) or from nothing."""
        self.journal = journal
        self._append = journal.append
        self._commands: list[ev.Command] = []
        self._handlers: dict[type[ev.Event], Callable[[Any], None]] = {
            ev.BarClosed: self._on_bar,
            ev.PriceUpdated: self._on_price,
            ev.MarkPriceUpdated: self._on_mark,
            ev.FeedStateChanged: self._on_feed,
            ev.ClockChecked: self._on_clock,
            ev.OrderAccepted: self._on_accepted,
            ev.OrderFilled: self._on_filled,
            ev.OrderCanceled: self._on_ended,
            ev.OrderExpired: self._on_ended,
            ev.OrderRejected: self._on_ended,
            ev.OrderUnsettled: self._on_unsettled,
            ev.CancelRejected: self._on_cancel_rejected,
            ev.AccountUpdated: self._on_account,
            ev.FundingPaid: self._on_funding,
            ev.Transferred: self._on_transfer,
            ev.AccountReconciled: self._on_reconciled,
            ev.SessionStarted: self._on_session,
            ev.TimerFired: self._on_timer,
            ev.TradingStateSet: self._on_state_set,
            ev.LimitSet: self._on_limit_set,
            ev.FlattenRequested: self._on_flatten,
            ev.EntriesPaused: self._on_paused,
        }
        self.use_strategy(strategy)
        self.numbers: dict[str, float] | None = None
        self.is_open = True
        self._use(state or EngineState(risk=RiskAccount(account=Account())))

    def _use(self, state: EngineState) -> None:
        self.state = state
        self.risk = state.risk
        self.account = state.risk.account
        self.orders = Orders(state)
        self.guard = Guard(self)
        self.reconciliation = Reconciliation(self)
        self.context = EngineContext(self)
        self._marks = self.account.marks
        self._watches_losses = False
        if state.setup is not None:
            self._read_setup(state.setup)

    # --- the loop ----------------------------------------------------------------------------------

    def process(self, event: ev.AnyEvent) -> tuple[ev.Command, ...]:
        """Journal `event`, fold it, let the strategy see it; return the commands it led to, in order.

        Nothing may be sent before the journal is committed. Raises ConservationError when cash and
        positions no longer add up, JournalError when the journal refuses the event.
        """
        self._append(event)
        risk = self.risk
        risk.now_ms = max(risk.now_ms, event.ts_ms)
        self._handlers[event.__class__](event)
        commands = self._commands
        if commands:
            self._commands = []
            return tuple(commands)
        return ()

    def record(self, event: ev.AnyEvent) -> None:
        """Write what the engine itself decided."""
        self._append(event)

    def command(self, command: ev.Command) -> None:
        """Add a command to those this event returns."""
        self._commands.append(command)

    def error(self, code: str, detail: str, client_order_id: str = "") -> None:
        """Record something that must not happen, and tell people."""
        self._append(ev.ErrorRecorded(self.risk.now_ms, code, detail, client_order_id))
        self._commands.append(ev.RaiseAlert(code, detail))

    # --- state in and out --------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """Return everything the engine and the strategy know."""
        self.state.strategy = self.strategy.dump_state()
        body = dump_state(self.state)
        self.state.strategy = None
        return body

    def use_strategy(self, strategy: StrategyPort) -> None:
        """Drive `strategy` from now on: a session with other parameters starts with a fresh one."""
        self.strategy = strategy
        overrides = type(strategy)
        self._wants_price = getattr(overrides, "on_price", None) is not SilentStrategy.on_price
        self._wants_fill = getattr(overrides, "on_fill", None) is not SilentStrategy.on_fill
        self._wants_order = getattr(overrides, "on_order", None) is not SilentStrategy.on_order

    def attach(self, journal: EventJournal) -> None:
        """Write to `journal` from now on: recovery replays against one journal and goes on in another."""
        self.journal = journal
        self._append = journal.append

    def restore(self, body: bytes) -> None:
        """Continue from what `snapshot` returned."""
        state = parse_state(body)
        strategy_state, state.strategy = state.strategy, None
        self._use(state)
        self.strategy.load_state(strategy_state)

    def state_hash(self) -> str:
        """Return the hash of orders, positions, balances, trading state and strategy state."""
        self.state.strategy = self.strategy.dump_state()
        digest = hash_state(self.state)
        self.state.strategy = None
        return digest

    @property
    def needs_timer(self) -> bool:
        """Tell whether something is waiting for time to pass."""
        state = self.state
        return bool(
            self.risk.working or state.flatten or state.drifts or state.wakes or self.guard.is_waiting
        )

    # --- market ------------------------------------------------------------------------------------

    def _on_bar(self, bar: ev.BarClosed) -> None:
        state = self.state
        symbol = bar.symbol
        if bar.open_ms <= state.last_bar_ms.get(symbol, -1):
            self.error("duplicate_bar", f"{symbol} bar {bar.open_ms} is not after the one before it")
            return
        state.last_bar_ms[symbol] = bar.open_ms
        if not state.has_mark_feed:
            self._marks[symbol] = bar.close
        if self._watches_losses:
            self.guard.watch_losses()
        strategy = self.strategy
        was_warm = strategy.is_warm
        if bar.refilled or bar.warmup:
            self.is_open = False
            strategy.on_bar(self.context, bar)
            self.is_open = True
        else:
            strategy.on_bar(self.context, bar)
        state.bars += 1
        notes = state.notes.pop(symbol, None)
        gate = ""
        if notes is not None and notes.acted:
            acted = notes.acted
            reason = (
                Reason.ENTERED if acted & ENTERED else Reason.EXITED if acted & EXITED else Reason.REFUSED
            )
            gate = notes.gate if reason is Reason.REFUSED else ""
        else:
            held = self.account.positions.get(symbol)
            if held is not None and held.quantity:
                reason = Reason.HOLDING
            elif self.risk.state is not _ACTIVE or (
                self.risk.entry_bans and not bar.refilled and not bar.warmup
            ):
                reason = Reason.NOT_TRADING
                gate = self.risk.state_why or next(iter(self.risk.entry_bans), "")
            elif bar.refilled:
                reason = Reason.REFILLED
            elif bar.warmup or not was_warm:
                reason = Reason.WARMING_UP
            else:
                reason = Reason.NO_SIGNAL
        self._append(ev.DecisionMade(bar.ts_ms, symbol, bar.open_ms, reason, gate, self.numbers))
        self.numbers = None

    def _on_price(self, update: ev.PriceUpdated) -> None:
        if not self.state.has_mark_feed:
            self._marks[update.symbol] = update.close
            if self._watches_losses:
                self.guard.watch_losses()
        if self._wants_price:
            self.strategy.on_price(self.context, update)

    def _on_mark(self, event: ev.MarkPriceUpdated) -> None:
        self.state.has_mark_feed = True
        self._marks[event.symbol] = event.mark
        if self._watches_losses:
            self.guard.watch_losses()

    def _on_feed(self, event: ev.FeedStateChanged) -> None:
        key = f"stale_feed:{event.stream}"
        if event.is_fresh:
            self.risk.entry_bans.pop(key, None)
        else:
            self.risk.entry_bans[key] = f"{event.stream} is stale: {event.reason}"

    def _on_clock(self, event: ev.ClockChecked) -> None:
        if abs(event.offset_ms) > _CLOCK_LIMIT_MS:
            self.risk.entry_bans["clock_offset"] = f"clock is {event.offset_ms:+.0f} ms off"
        else:
            self.risk.entry_bans.pop("clock_offset", None)

    # --- orders ------------------------------------------------------------------------------------

    def submit(self, intent: OrderIntent) -> Order | None:
        """Pass an intent through risk; record it and command its sending, or record its refusal."""
        risk = self.risk
        state = self.state
        is_entry = intent.role is _ENTRY and not is_reducing(intent, risk.account)
        if not self.is_open and intent.role in _STRATEGY_ROLES:
            return None
        setup = state.setup
        if setup is None:
            message = "no session was started: process(SessionStarted) comes first"
            raise RuntimeError(message)
        verdict = assess(intent, risk, setup.limits)
        now = risk.now_ms
        if not isinstance(verdict, Approved):
            self._append(ev.IntentRefused(now, verdict.code, verdict.detail, intent))
            self.note_gate(intent.symbol, verdict.code)
            return None
        state.ordinal = ordinal = state.ordinal + 1
        key = mint_client_order_id(state.epoch, setup.world, self.strategy.name, ordinal, intent)
        order = Order(
            client_order_id=key,
            intent=intent,
            ordinal=ordinal,
            created_ms=now,
            updated_ms=now,
            status=_SUBMITTED,
        )
        self.orders.add(order)
        self._append(ev.IntentRecorded(now, key, ordinal, intent))
        self._commands.append(ev.SubmitOrder(order))
        if is_entry:
            if setup.limits.orders_per_minute is not None:
                risk.sent_ms.append(now)
            self._note(intent.symbol, ENTERED)
        elif intent.role in _STRATEGY_ROLES:
            self._note(intent.symbol, EXITED)
        return order

    def cancel(self, order: Order) -> None:
        """Command a cancel; an order not yet acknowledged is cancelled once it is."""
        if order.status in _DEAD or order.status is _PENDING_CANCEL:
            return
        if order.status is _SUBMITTED or order.status is _UNKNOWN:
            if order.client_order_id not in self.state.cancel_wanted:
                self.state.cancel_wanted.append(order.client_order_id)
            return
        self.orders.move(order, _PENDING_CANCEL, self.risk.now_ms)
        self._commands.append(ev.CancelOrder(order))

    def note_gate(self, symbol: str, gate: str) -> None:
        """Keep that a signal of the forming bar was refused, and by which gate."""
        notes = self._note(symbol, REFUSED)
        if not notes.gate:
            notes.gate = gate

    def _note(self, symbol: str, what: int) -> BarNotes:
        notes = self.state.notes.get(symbol)
        if notes is None:
            notes = self.state.notes[symbol] = BarNotes()
        notes.acted |= what
        return notes

    def _known(self, client_order_id: str, what: str) -> Order | None:
        order = self.orders.find(client_order_id)
        if order is None:
            self._append(ev.ErrorRecorded(self.risk.now_ms, "unknown_order", what, client_order_id))
        return order

    def _move(self, order: Order, status: OrderStatus, reason: str = "") -> bool:
        if self.orders.is_stale_news(order, status):
            return False
        was = order.status
        if not self.orders.move(order, status, self.risk.now_ms, reason):
            self.error("illegal_transition", f"{was} -> {status}", order.client_order_id)
            return False
        if status in _DEAD and order.client_order_id in self.state.cancel_wanted:
            self.state.cancel_wanted.remove(order.client_order_id)
        if order.intent.role in _STRATEGY_ROLES:
            if self._wants_order:
                self.strategy.on_order(self.context, order)
        else:
            self.guard.on_order(order)
        return True

    def _on_accepted(self, event: ev.OrderAccepted) -> None:
        order = self._known(event.client_order_id, "accepted")
        if order is None:
            return
        if event.venue_order_id:
            order.venue_order_id = event.venue_order_id
        if self._move(order, _ACCEPTED) and self.state.cancel_wanted:
            key = order.client_order_id
            if key in self.state.cancel_wanted:
                self.state.cancel_wanted.remove(key)
                self.cancel(order)

    def _on_filled(self, fill: ev.OrderFilled) -> None:
        order = self.orders.find(fill.client_order_id)
        if order is None:
            self.reconciliation.on_foreign_fill(fill)
            return
        if fill.trade_id in order.trade_ids:
            return
        account = self.account
        position = account.position(fill.symbol, fill.position_side)
        fee = fill.fee if fill.fee_asset == account.asset else fill.fee * 0
        account.fill(position, fill.side, fill.quantity, fill.price, fee, fill.ts_ms)
        account.check_conservation()
        if self.state.drifts:
            self.reconciliation.forget_settled_drifts()
        status = self.orders.fold_fill(order, fill, is_flat=not position.quantity)
        if status is not order.status:
            self._move(order, status)
        if self._wants_fill and order.intent.role in _STRATEGY_ROLES:
            self.strategy.on_fill(self.context, fill, order)
        self.guard.on_position(position)

    def _on_ended(self, event: ev.OrderCanceled | ev.OrderExpired | ev.OrderRejected) -> None:
        status = _ENDINGS[event.__class__]
        order = self._known(event.client_order_id, status)
        if order is not None:
            self._move(order, status, event.reason)

    def _on_unsettled(self, event: ev.OrderUnsettled) -> None:
        order = self._known(event.client_order_id, "unsettled")
        if order is not None and self._move(order, _UNKNOWN, event.reason):
            self._commands.append(ev.RequestReconcile(f"order {order.client_order_id} is unsettled"))

    def _on_cancel_rejected(self, event: ev.CancelRejected) -> None:
        order = self._known(event.client_order_id, "cancel rejected")
        if order is not None and order.status is _PENDING_CANCEL:
            back = OrderStatus.PARTIALLY_FILLED if order.filled else _ACCEPTED
            self.orders.move(order, back, self.risk.now_ms, event.reason)
            self._commands.append(ev.RequestReconcile(f"cancel of {order.client_order_id}: {event.reason}"))

    # --- account and control -----------------------------------------------------------------------

    def _on_account(self, event: ev.AccountUpdated) -> None:
        self.reconciliation.on_account(event)

    def _on_funding(self, event: ev.FundingPaid) -> None:
        self.account.pay_funding(event.amount)
        self.account.check_conservation()

    def _on_transfer(self, event: ev.Transferred) -> None:
        self.state.has_account = True
        if event.asset == self.account.asset:
            self.account.transfer(event.amount)
            self.account.check_conservation()
            self.guard.on_transfer(event.amount)

    def _on_reconciled(self, event: ev.AccountReconciled) -> None:
        self.reconciliation.on_reconciled(event)

    def _read_setup(self, setup: ev.SessionSetup) -> None:
        self.risk.instruments = {instrument.symbol: instrument for instrument in setup.instruments}
        self.account.asset = setup.asset
        limits = setup.limits
        self._watches_losses = limits.max_daily_loss is not None or limits.max_drawdown is not None

    def _on_session(self, event: ev.SessionStarted) -> None:
        state = self.state
        state.epoch, state.domain, state.setup = event.epoch, event.domain, event.setup
        self.risk.speed = event.speed
        self.risk.entry_bans.clear()
        state.wakes.clear()
        self._read_setup(event.setup)
        if event.setup.needs_reconcile:
            self.risk.entry_bans["not_reconciled"] = "the venue's account was not compared yet"
            self._commands.append(ev.RequestReconcile("start"))

    def _on_timer(self, event: ev.TimerFired) -> None:
        wakes = self.state.wakes
        while wakes and wakes[0] <= event.ts_ms:
            del wakes[0]
        self.guard.on_timer()
        if self.state.drifts:
            self.reconciliation.on_timer()
        self.strategy.on_timer(self.context)

    def set_state(self, target: TradingState, who: str, why: str) -> None:
        """Change the trading state and record it; HALTED also cancels what could open."""
        risk = self.risk
        if risk.state is target and risk.state_why == why:
            return
        risk.state, risk.state_why, self.state.state_who = target, "" if target is _ACTIVE else why, who
        self._append(ev.StateChanged(risk.now_ms, target, who, why))
        if target is TradingState.HALTED:
            self.cancel_entries()
        if target is not _ACTIVE:
            self._commands.append(ev.RaiseAlert(f"state_{target.lower()}", f"{who}: {why}"))

    def cancel_entries(self) -> None:
        """Cancel every working order that could open a position."""
        for order in list(self.risk.working.values()):
            if not is_reducing(order.intent, self.account):
                self.cancel(order)

    def _on_state_set(self, event: ev.TradingStateSet) -> None:
        if event.state is _ACTIVE:
            self.guard.on_resume()
        self.set_state(event.state, event.who, event.why)

    def _on_limit_set(self, event: ev.LimitSet) -> None:
        self.guard.set_limit(event)

    def _on_flatten(self, event: ev.FlattenRequested) -> None:
        self.guard.flatten(event.who, event.why)

    def _on_paused(self, event: ev.EntriesPaused) -> None:
        self.risk.entry_bans["reducing"] = event.why
        self.cancel_entries()

    def watch_losses(self, *, on: bool) -> None:
        """Switch the loss watch when a limit appears or goes."""
        self._watches_losses = on


_ENDINGS: dict[type[ev.Event], OrderStatus] = {
    ev.OrderCanceled: OrderStatus.CANCELED,
    ev.OrderExpired: OrderStatus.EXPIRED,
    ev.OrderRejected: OrderStatus.REJECTED,
}


def day_of(ts_ms: int) -> int:
    """Return the UTC day number of an exchange time."""
    return ts_ms // DAY_MS
