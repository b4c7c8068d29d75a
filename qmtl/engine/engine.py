"""The one loop: events in, commands out. No await, no clock read; replaying a journal is recovery."""

from collections.abc import Callable, Sequence
from typing import Any

from qmtl.core import event as ev
from qmtl.core.account import Account, ConservationError
from qmtl.core.command import Command, RaiseAlert, RequestReconcile
from qmtl.core.order import Order
from qmtl.core.reason import TradingState
from qmtl.engine.bar_reasons import BarReasons
from qmtl.engine.context import EngineContext
from qmtl.engine.guard import Guard
from qmtl.engine.journal import DivergenceError, JournalError
from qmtl.engine.order_desk import OrderDesk
from qmtl.engine.orders import Orders
from qmtl.engine.ports import EventJournal
from qmtl.engine.reconciliation import Reconciliation
from qmtl.engine.risk import RiskAccount
from qmtl.engine.state import (
    FINISHED_KEPT,
    EngineState,
    dump_state,
    hash_state,
    parse_state,
)
from qmtl.engine.strategy import Foresight, SilentStrategy, StrategyPort

_ACTIVE = TradingState.ACTIVE
_OWN_FAULTS = (ConservationError, DivergenceError, JournalError)
"""What may pass through a call into a strategy and is not the strategy's doing."""


class Engine:
    """One account, one strategy, one journal: `process` folds an event and returns what to do."""

    def __init__(
        self, strategy: StrategyPort, journal: EventJournal, state: EngineState | None = None
    ) -> None:
        """Start from `state` (a restored snapshot) or from nothing."""
        self.attach(journal)
        self._commands: list[Command] = []
        self.use_strategy(strategy)
        self.is_open = True
        self._use(state or EngineState(risk=RiskAccount(account=Account())))

    def _use(self, state: EngineState) -> None:
        self.state = state
        self.risk = state.risk
        self.account = state.risk.account
        self.orders = Orders(state)
        self.desk = OrderDesk(self)
        self.submit = self.desk.submit
        self.cancel = self.desk.cancel
        self.cancel_entries = self.desk.cancel_entries
        self.reasons = BarReasons(self)
        self.guard = Guard(self)
        self.reconciliation = Reconciliation(self)
        self.context = EngineContext(self)
        self._handlers = self._route()
        self._marks = self.account.marks
        self._watches_losses = False
        if state.setup is not None:
            self._read_setup(state.setup)

    def _route(self) -> dict[type[ev.Event], Callable[[Any], None]]:
        desk = self.desk
        return {
            ev.BarClosed: self._on_bar,
            ev.PriceUpdated: self._on_price,
            ev.MarkPriceUpdated: self._on_mark,
            ev.FeedStateChanged: self._on_feed,
            ev.ClockChecked: self._on_clock,
            ev.OrderAccepted: desk.on_accepted,
            ev.OrderFilled: desk.on_filled,
            ev.OrderCanceled: desk.on_ended,
            ev.OrderExpired: desk.on_ended,
            ev.OrderRejected: desk.on_ended,
            ev.OrderUnsettled: desk.on_unsettled,
            ev.CancelRejected: desk.on_cancel_rejected,
            ev.AccountUpdated: self.reconciliation.on_account,
            ev.FundingPaid: self._on_funding,
            ev.Transferred: self._on_transfer,
            ev.AccountReconciled: self.reconciliation.on_reconciled,
            ev.SessionStarted: self._on_session,
            ev.TimerFired: self._on_timer,
            ev.TradingStateSet: self._on_state_set,
            ev.LimitSet: self.guard.set_limit,
            ev.FlattenRequested: self._on_flatten,
            ev.EntriesPaused: self._on_paused,
        }

    # --- the loop ----------------------------------------------------------------------------------

    def process(self, event: ev.AnyEvent) -> tuple[Command, ...]:
        """Journal `event`, fold it, let the strategy see it; return the commands it led to, in order.

        Nothing may be sent before the journal is committed. Raises ConservationError when cash and
        positions no longer add up, JournalError when the journal refuses the event.
        """
        self.record(event)
        risk = self.risk
        if event.ts_ms > risk.now_ms:  # noqa: PLR1730 - a call of max costs as much as the rest of the line
            risk.now_ms = event.ts_ms
        self._handlers[event.__class__](event)
        commands = self._commands
        if commands:
            self._commands = []
            return tuple(commands)
        return ()

    def command(self, command: Command) -> None:
        """Add a command to those this event returns."""
        self._commands.append(command)

    def error(self, code: str, detail: str, client_order_id: str = "") -> None:
        """Record something that must not happen, and tell people."""
        self.record(ev.ErrorRecorded(self.risk.now_ms, code, detail, client_order_id))
        self._commands.append(RaiseAlert(code, detail))

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
        self.foresight = strategy if isinstance(strategy, Foresight) else None
        overrides = type(strategy)
        self._wants_price = getattr(overrides, "on_price", None) is not SilentStrategy.on_price
        self.wants_fill = getattr(overrides, "on_fill", None) is not SilentStrategy.on_fill
        self.wants_order = getattr(overrides, "on_order", None) is not SilentStrategy.on_order

    def attach(self, journal: EventJournal) -> None:
        """Write to `journal` from now on: recovery replays against one journal and goes on in another."""
        self.journal = journal
        # The journal's own method: it is called at least twice a bar.
        self.record: Callable[[ev.AnyEvent], None] = journal.append

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
        """Tell whether the engine's own safety waits for time to pass; a strategy asks by `wake_in`."""
        state = self.state
        return bool(state.flatten or state.drifts or self.guard.is_waiting)

    # --- market ------------------------------------------------------------------------------------

    def _on_bar(self, bar: ev.BarClosed) -> None:
        state = self.state
        symbol = bar.symbol
        last_bar_ms = state.last_bar_ms
        if bar.open_ms <= last_bar_ms.get(symbol, -1):
            # History asked for again at a start or after a gap overlaps what was seen; live bars must not.
            if not bar.warmup and not bar.refilled:
                self.error("duplicate_bar", f"{symbol} bar {bar.open_ms} is not after the one before it")
            return
        last_bar_ms[symbol] = bar.open_ms
        if not state.has_mark_feed:
            self._marks[symbol] = bar.close
        if self._watches_losses:
            self.guard.watch_losses()
        strategy = self.strategy
        was_warm = strategy.is_warm
        self.is_open = not (bar.refilled or bar.warmup)
        try:
            strategy.on_bar(self.context, bar)
        except _OWN_FAULTS:
            raise
        except Exception as error:  # noqa: BLE001 - user code
            self._on_strategy_error("on_bar", error)
        finally:
            self.is_open = True
        state.bars += 1
        self.reasons.take(bar, is_warm=was_warm)

    def foresee(self, events: Sequence[ev.AnyEvent], at: int) -> Sequence[ev.BarClosed]:
        """Return the bars from `events[at]` on that `pass_quiet` may take, empty where there is none."""
        state = self.state
        if self.foresight is None or self._watches_losses or state.wakes or state.notes or state.undecided:
            return ()
        bars = self.foresight.foresee(self.context, events, at)
        return bars if bars and bars[0].open_ms > state.last_bar_ms.get(bars[0].symbol, -1) else ()

    def pass_quiet(self, bars: Sequence[ev.BarClosed]) -> None:
        """Fold bars `foresee` told of: state and records are those of one `process` for each."""
        if self.foresight is None:
            raise TypeError(f"{self.strategy.name} foresees nothing")
        state, last = self.state, bars[-1]
        self.reasons.take_quiet(bars, self.foresight.pass_quiet(bars))
        if last.ts_ms > self.risk.now_ms:  # noqa: PLR1730 - as in `process`
            self.risk.now_ms = last.ts_ms
        state.last_bar_ms[last.symbol] = last.open_ms
        if not state.has_mark_feed:
            self._marks[last.symbol] = last.close
        state.bars += len(bars)

    def _on_price(self, update: ev.PriceUpdated) -> None:
        if not self.state.has_mark_feed:
            self._marks[update.symbol] = update.close
            if self._watches_losses:
                self.guard.watch_losses()
        if self._wants_price:
            try:
                self.strategy.on_price(self.context, update)
            except _OWN_FAULTS:
                raise
            except Exception as error:  # noqa: BLE001 - user code
                self._on_strategy_error("on_price", error)

    def _on_mark(self, event: ev.MarkPriceUpdated) -> None:
        self.state.has_mark_feed = True
        self._marks[event.symbol] = event.mark
        if self._watches_losses:
            self.guard.watch_losses()

    def _on_feed(self, event: ev.FeedStateChanged) -> None:
        key = f"stale_feed:{event.stream}"
        if event.is_fresh:
            was_stale = self.risk.entry_bans.pop(key, None) is not None
            if was_stale and self.state.setup is not None and self.state.setup.needs_reconcile:
                self.command(RequestReconcile(f"{event.stream} was away"))
        else:
            self.risk.entry_bans[key] = f"{event.stream} is stale: {event.reason}"

    def _on_clock(self, event: ev.ClockChecked) -> None:
        setup = self.state.setup
        if setup is not None and abs(event.offset_ms) > setup.clock_limit_ms:
            self.risk.entry_bans["clock_offset"] = f"clock is {event.offset_ms:+.0f} ms off"
        else:
            self.risk.entry_bans.pop("clock_offset", None)

    # --- account and control -----------------------------------------------------------------------

    def _is_booked(self, key: str, ts_ms: int) -> bool:
        """Tell whether a movement was booked before: the stream and the history both tell of it."""
        if not key:
            return False
        booked = self.state.booked
        if key in booked:
            return True
        booked[key] = ts_ms
        if len(booked) > FINISHED_KEPT:
            del booked[next(iter(booked))]
        return False

    def _on_funding(self, event: ev.FundingPaid) -> None:
        if self._is_booked(event.funding_id, event.ts_ms):
            return
        self.account.pay_funding(event.amount)
        self.account.check_conservation()

    def _on_transfer(self, event: ev.Transferred) -> None:
        self.state.has_account = True
        if event.asset == self.account.asset and not self._is_booked(event.transfer_id, event.ts_ms):
            self.account.transfer(event.amount)
            self.account.check_conservation()
            self.guard.on_transfer(event.amount)

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
        # Marks of the last session are old, and this one may have no mark stream.
        state.has_mark_feed = False
        self._read_setup(event.setup)
        if event.setup.needs_reconcile:
            self.risk.entry_bans["not_reconciled"] = "the venue's account was not compared yet"
            self._commands.append(RequestReconcile("start"))

    def _on_timer(self, event: ev.TimerFired) -> None:
        wakes = self.state.wakes
        while wakes and wakes[0] <= event.ts_ms:
            del wakes[0]
        self.guard.on_timer()
        if self.state.drifts:
            self.reconciliation.on_timer()
        self._tell("on_timer", self.strategy.on_timer)
        self.reasons.settle()

    def set_state(self, target: TradingState, who: str, why: str) -> None:
        """Change the trading state and record it; HALTED also cancels what could open."""
        risk = self.risk
        if risk.state is target and risk.state_why == why:
            return
        risk.state, risk.state_why, self.state.state_who = target, "" if target is _ACTIVE else why, who
        self.record(ev.StateChanged(risk.now_ms, target, who, why))
        if target is TradingState.HALTED:
            self.cancel_entries()
        if target is not _ACTIVE:
            self._commands.append(RaiseAlert(f"state_{target.lower()}", f"{who}: {why}"))

    def _on_state_set(self, event: ev.TradingStateSet) -> None:
        if event.state is _ACTIVE:
            self.guard.on_resume()
        self.set_state(event.state, event.who, event.why)

    def _on_flatten(self, event: ev.FlattenRequested) -> None:
        self.guard.flatten(event.who, event.why)

    def _on_paused(self, event: ev.EntriesPaused) -> None:
        self.risk.entry_bans["reducing"] = event.why
        self.cancel_entries()

    # --- the strategy ------------------------------------------------------------------------------

    def tell_fill(self, fill: ev.OrderFilled, order: Order) -> None:
        """Let the strategy see a fill that is already folded."""
        self._tell("on_fill", self.strategy.on_fill, fill, order)

    def tell_order(self, order: Order) -> None:
        """Let the strategy see an order's changed status."""
        self._tell("on_order", self.strategy.on_order, order)

    def _tell(self, what: str, method: Callable[..., None], *arguments: object) -> None:
        try:
            method(self.context, *arguments)
        except _OWN_FAULTS:
            raise
        except Exception as error:  # noqa: BLE001 - user code
            self._on_strategy_error(what, error)

    def _on_strategy_error(self, what: str, error: Exception) -> None:
        """Raise in a backtest; elsewhere stop entering, for a dead process watches no position.

        The event is in the journal already: raising would meet the same error at every start.
        """
        if self.state.domain == "backtest":
            raise error
        # The text may hold addresses, and records must be the same at a replay.
        self.record(
            ev.ErrorRecorded(self.risk.now_ms, "strategy_error", f"{what} raised {type(error).__name__}")
        )
        self.command(RaiseAlert("strategy_error", f"{what}: {error}"))
        if self.risk.state is _ACTIVE:
            self.set_state(TradingState.REDUCING, "engine", f"the strategy's {what} failed")

    def watch_losses(self, *, on: bool) -> None:
        """Switch the loss watch when a limit appears or goes."""
        self._watches_losses = on
