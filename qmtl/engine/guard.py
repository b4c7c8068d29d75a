"""What keeps the account safe whatever the strategy does: venue-side stops, loss limits, FLATTEN."""

from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from qmtl.core.command import RaiseAlert
from qmtl.core.event import (
    LimitSet,
)
from qmtl.core.instrument import Instrument
from qmtl.core.interval import DAY_MS
from qmtl.core.limits import RiskLimits
from qmtl.core.money import ZERO, parse_decimal
from qmtl.core.order import (
    DONE,
    UNSETTLED,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    PositionSide,
    Role,
    Side,
    WorkingType,
)
from qmtl.core.position import Position
from qmtl.core.reason import TradingState
from qmtl.engine.state import Flatten, Protection

if TYPE_CHECKING:
    from qmtl.engine.engine import Engine

UNPROTECTED_S = 30.0
"""A position without its stop at the venue for so long is flattened and the account halted."""

FLATTEN_ROUND_S = 5.0
_RETRY_S = 1.0
_WHOLE = frozenset(
    field for field in RiskLimits.__struct_fields__ if field in {"max_open_orders", "orders_per_minute"}
)


class Guard:
    """Protection of one engine's account; decides nothing a strategy could override."""

    def __init__(self, engine: "Engine") -> None:
        """Guard `engine`."""
        self._engine = engine
        self._state = engine.state
        self._risk = engine.risk
        self._account = engine.account

    @property
    def is_waiting(self) -> bool:
        """Tell whether a stop is owed and not yet working."""
        return any(self.owes(guard) for guard in self._state.guard.values())

    def owes(self, guard: Protection) -> bool:
        """Tell whether the stop of `guard` does not work at the venue yet, or no more."""
        return guard.owed_since_ms is not None

    # --- the stop at the venue ---------------------------------------------------------------------

    def on_position(self, position: Position) -> None:
        """Place, replace or cancel the stop after a fill."""
        setup = self._state.setup
        if setup is None or setup.catastrophe_stop is None:
            return
        key = _key(position)
        guard = self._state.guard.get(key)
        if not position.quantity:
            if guard is not None:
                self._cancel(guard.client_order_id)
                del self._state.guard[key]
            return
        instrument = self._risk.instruments.get(position.symbol)
        if instrument is None:
            return
        if guard is None:
            guard = self._state.guard[key] = Protection(self._risk.now_ms)
        order = self._state.protections.get(guard.client_order_id)
        if order is None:
            self._place(position, guard)
            return
        side, price = _find_stop(position, instrument, setup.catastrophe_stop)
        if order.intent.side is not side or order.intent.stop_price != price:
            # The venue takes one closing stop a position: the next goes out when this one is gone.
            self._engine.cancel(order)

    def on_order(self, order: Order) -> None:
        """Take news of a protecting or flattening order."""
        if order.intent.role is not Role.PROTECTION:
            return
        for key, guard in list(self._state.guard.items()):
            if guard.client_order_id != order.client_order_id:
                continue
            if order.status in DONE:
                self._on_stop_gone(key, guard, order)
            elif order.status not in UNSETTLED:
                guard.owed_since_ms = None

    def adopt_stops(self) -> None:
        """After a reconciliation: match stops to positions, place what is missing, cancel the rest."""
        setup = self._state.setup
        if setup is None or setup.catastrophe_stop is None:
            return
        wanted = {_key(p): p for p in self._account.positions.values() if p.quantity}
        for order in list(self._state.protections.values()):
            side = order.intent.position_side
            key = order.intent.symbol if side is PositionSide.BOTH else f"{order.intent.symbol}:{side}"
            position = wanted.get(key)
            closing = None if position is None else Side.SELL if position.quantity > 0 else Side.BUY
            guard = self._state.guard.get(key)
            if position is None or order.intent.side is not closing:
                self._engine.cancel(order)
            elif guard is None or guard.client_order_id not in self._state.protections:
                owed_since_ms = self._risk.now_ms if order.status in UNSETTLED else None
                self._state.guard[key] = Protection(owed_since_ms, order.client_order_id)
            elif guard.client_order_id != order.client_order_id:
                self._engine.cancel(order)
        for key in list(self._state.guard):
            if key not in wanted:
                del self._state.guard[key]
        for position in wanted.values():
            if position.symbol not in self._risk.instruments:
                self._engine.error(
                    "unprotected_position", f"{_key(position)} is not an instrument of this trader"
                )
            self.on_position(position)

    def _on_stop_gone(self, key: str, guard: Protection, order: Order) -> None:
        guard.client_order_id = ""
        if guard.owed_since_ms is None:
            guard.owed_since_ms = self._risk.now_ms
        if order.status is OrderStatus.FILLED:
            return
        if order.status is OrderStatus.CANCELED and not order.filled and self._is_replaceable(key, order):
            self._place(self._account.positions[key], guard)
            return
        self._wake(_RETRY_S)
        self._engine.command(RaiseAlert("unprotected_position", f"{key}: {order.reason or order.status}"))

    def _is_replaceable(self, key: str, order: Order) -> bool:
        """Tell whether a cancelled stop was ours to replace: another one is due for the position."""
        setup = self._state.setup
        position = self._account.positions[key]
        instrument = self._risk.instruments.get(position.symbol)
        if setup is None or setup.catastrophe_stop is None or instrument is None or not position.quantity:
            return False
        due = _find_stop(position, instrument, setup.catastrophe_stop)
        return due != (order.intent.side, order.intent.stop_price)

    def _place(self, position: Position, guard: Protection) -> None:
        setup = self._state.setup
        instrument = self._risk.instruments.get(position.symbol)
        if setup is None or setup.catastrophe_stop is None or instrument is None:
            return
        side, price = _find_stop(position, instrument, setup.catastrophe_stop)
        order = self._engine.submit(
            OrderIntent(
                symbol=position.symbol,
                side=side,
                quantity=abs(position.quantity),
                type=OrderType.STOP_MARKET,
                stop_price=price,
                close_position=True,
                position_side=position.side,
                working_type=WorkingType.MARK_PRICE,
                role=Role.PROTECTION,
                why="catastrophe stop",
            )
        )
        guard.client_order_id = order.client_order_id if order is not None else ""
        guard.tried_ms = self._risk.now_ms
        self._wake(_RETRY_S if order is None else UNPROTECTED_S)

    def _cancel(self, client_order_id: str) -> None:
        order = self._state.protections.get(client_order_id)
        if order is not None:
            self._engine.cancel(order)

    def _watch_stops(self) -> None:
        for key, guard in list(self._state.guard.items()):
            if guard.owed_since_ms is None:
                continue
            position = self._account.positions[key]
            waited_s = self._elapsed_s(guard.owed_since_ms)
            if waited_s >= UNPROTECTED_S and self._state.flatten is None:
                why = f"{key} had no stop at the venue for {waited_s:.0f} s"
                self._engine.error("unprotected_position", why)
                self.flatten("engine", why)
            elif guard.client_order_id not in self._state.protections and (
                self._elapsed_s(guard.tried_ms) >= _RETRY_S
            ):
                self._place(position, guard)

    # --- FLATTEN -----------------------------------------------------------------------------------

    def flatten(self, who: str, why: str) -> None:
        """Cancel every order of the strategy, close every position reduce-only, halt."""
        self._engine.set_state(TradingState.HALTED, who, why or "flatten")
        for order in list(self._risk.working.values()):
            if order.intent.role is not Role.FLATTEN:
                self._engine.cancel(order)
        self._state.flatten = Flatten(who, self._risk.now_ms)
        for position in self._account.positions.values():
            if position.quantity and position.symbol not in self._risk.instruments:
                what = f"{_key(position)} is not an instrument of this trader and stays open"
                self._engine.error("not_flattened", what)
        self._close_all()

    def _close_all(self) -> None:
        working = [o.intent for o in self._risk.working.values() if o.intent.role is Role.FLATTEN]
        closing = {(intent.symbol, intent.position_side) for intent in working}
        flat = True
        for position in list(self._account.positions.values()):
            instrument = self._risk.instruments.get(position.symbol)
            if not position.quantity or instrument is None:
                continue
            flat = False
            if (position.symbol, position.side) in closing:
                continue
            is_hedged = position.side is not PositionSide.BOTH
            self._engine.submit(
                OrderIntent(
                    symbol=position.symbol,
                    side=Side.SELL if position.quantity > 0 else Side.BUY,
                    quantity=min(abs(position.quantity), instrument.market_max_quantity),
                    reduce_only=not is_hedged,
                    position_side=position.side,
                    role=Role.FLATTEN,
                    why="flatten",
                )
            )
        if flat:
            self._state.flatten = None
        else:
            self._wake(FLATTEN_ROUND_S)

    # --- losses ------------------------------------------------------------------------------------

    def watch_losses(self) -> None:
        """Compare equity with the day's start and the peak; a broken limit sets REDUCING."""
        state, setup = self._state, self._state.setup
        if setup is None:
            return
        equity = self._account.equity()
        day = self._risk.now_ms // DAY_MS
        if day != state.day:
            state.day, state.day_start_equity = day, equity
        state.peak_equity = max(state.peak_equity, equity)
        if self._risk.state is not TradingState.ACTIVE:
            return
        limits = setup.limits
        lost = state.day_start_equity - equity
        if limits.max_daily_loss is not None and lost >= limits.max_daily_loss:
            why = f"max_daily_loss: {lost:.2f} of {limits.max_daily_loss} {self._account.asset} lost today"
            self._engine.set_state(TradingState.REDUCING, "risk", why)
        elif limits.max_drawdown is not None and state.peak_equity > ZERO:
            fall = (state.peak_equity - equity) / state.peak_equity
            if fall >= limits.max_drawdown:
                peak = f"the peak {state.peak_equity:.2f}"
                why = f"max_drawdown: {fall:.4f} of {limits.max_drawdown} below {peak}"
                self._engine.set_state(TradingState.REDUCING, "risk", why)

    def on_transfer(self, amount: Decimal) -> None:
        """Money moved in or out is neither profit nor loss."""
        state = self._state
        if state.day >= 0:
            state.day_start_equity += amount
        if state.peak_equity:
            state.peak_equity += amount

    def on_first_account(self) -> None:
        """The account was just learned: what it lost before is not this trader's day."""
        self._state.day = -1
        self._state.peak_equity = ZERO

    def on_resume(self) -> None:
        """A person accepted the losses so far: measure anew, or the next price would stop trading again."""
        state = self._state
        state.day_start_equity = state.peak_equity = self._account.equity()
        state.foreign_orders.clear()
        state.flatten = None

    def set_limit(self, event: LimitSet) -> None:
        """Change one limit of the running session."""
        setup = self._state.setup
        if setup is None:
            return
        if event.name not in RiskLimits.__struct_fields__:
            self._engine.error(
                "unknown_limit", f"{event.name}; known: {', '.join(RiskLimits.__struct_fields__)}"
            )
            return
        value: Decimal | int | None = None
        if event.value is not None:
            try:
                value = parse_decimal(event.value, event.name)
                if value < ZERO or (event.name in _WHOLE and value != value.to_integral_value()):
                    raise ValueError(f"{event.name}: {event.value} is negative or no whole number")
            except ValueError as error:
                # The event is journaled already: it must fold to the same at every replay.
                self._engine.error("bad_limit", str(error))
                return
            value = int(value) if event.name in _WHOLE else value
        limits = msgspec.structs.replace(setup.limits, **{event.name: value})
        self._state.setup = msgspec.structs.replace(setup, limits=limits)
        self._engine.watch_losses(on=limits.max_daily_loss is not None or limits.max_drawdown is not None)

    # --- time --------------------------------------------------------------------------------------

    def on_timer(self) -> None:
        """Look at what waits for time."""
        if self._state.guard:
            self._watch_stops()
        flatten = self._state.flatten
        if flatten is not None:
            if self._elapsed_s(flatten.sent_ms) >= FLATTEN_ROUND_S:
                flatten.sent_ms = self._risk.now_ms
                flatten.rounds += 1
                self._close_all()
            else:
                self._end_flatten()

    def _end_flatten(self) -> None:
        instruments = self._risk.instruments
        if not any(p.quantity and p.symbol in instruments for p in self._account.positions.values()):
            self._state.flatten = None

    def _elapsed_s(self, since_ms: int) -> float:
        return (self._risk.now_ms - since_ms) / self._risk.speed / 1000

    def _wake(self, real_s: float) -> None:
        self._engine.context.wake_in(real_s)


def _find_stop(position: Position, instrument: Instrument, fraction: Decimal) -> tuple[Side, Decimal]:
    """Return side and trigger of a position's stop, rounded toward the entry: never farther than allowed."""
    entry = position.entry_price
    if position.quantity > 0:
        return Side.SELL, instrument.ceil_price(entry * (1 - fraction))
    return Side.BUY, instrument.floor_price(entry * (1 + fraction))


def _key(position: Position) -> str:
    return position.symbol if position.side is PositionSide.BOTH else f"{position.symbol}:{position.side}"
