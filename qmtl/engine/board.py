"""What people and programs see of a running engine: counts, the last news, and a line per event."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import msgspec

from qmtl.core.event import (
    AnyEvent,
    BarClosed,
    DecisionMade,
    ErrorRecorded,
    FeedStateChanged,
    IntentRecorded,
    IntentRefused,
    OrderFilled,
    OrderRejected,
    OrderUnsettled,
    PriceUpdated,
    StateChanged,
)
from qmtl.core.money import dump_decimal
from qmtl.core.order import Order
from qmtl.engine.engine import Engine

KEPT = 200
QUEUE = 1_000
"""Lines a slow subscriber may be behind; after that it loses the oldest and is told how many."""

_TOLD: tuple[type, ...] = (
    BarClosed,
    DecisionMade,
    ErrorRecorded,
    FeedStateChanged,
    IntentRecorded,
    IntentRefused,
    OrderFilled,
    OrderRejected,
    OrderUnsettled,
    StateChanged,
)
_COUNTED = {BarClosed: "candles", DecisionMade: "decisions", IntentRecorded: "orders", OrderFilled: "fills"}


def dump_line(event: AnyEvent) -> dict[str, Any]:
    """Return an event as plain data with its name under `event`; decimals become text."""
    plain: dict[str, Any] = {
        field: msgspec.to_builtins(getattr(event, field)) for field in event.__struct_fields__
    }
    plain["event"] = type(event).__name__
    return plain


class Board:
    """Listens to the journal of one engine; `status` answers what is, `subscribe` tells what comes."""

    def __init__(self, is_known: Callable[[OrderFilled], bool] | None = None) -> None:
        """Start with nothing seen; a fill that `is_known` was folded before and is not shown again."""
        self._is_known = is_known
        self.counts: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.decisions: deque[DecisionMade] = deque(maxlen=KEPT)
        self.fills: deque[OrderFilled] = deque(maxlen=KEPT)
        self.errors: deque[ErrorRecorded] = deque(maxlen=KEPT)
        self.forming: dict[str, PriceUpdated] = {}
        self._queues: set[asyncio.Queue[dict[str, Any]]] = set()

    def on_event(self, event: AnyEvent) -> None:
        """Take the next journaled event; returns at once."""
        if isinstance(event, PriceUpdated):
            self.forming[event.symbol] = event
            return
        if isinstance(event, OrderFilled) and self._is_known is not None and self._is_known(event):
            return
        kind = event.__class__
        name = _COUNTED.get(kind)
        if name is not None:
            self.counts[name] += 1
        if isinstance(event, DecisionMade):
            self.decisions.append(event)
        elif isinstance(event, OrderFilled):
            self.fills.append(event)
        elif isinstance(event, IntentRefused):
            self.refusals[event.code] += 1
        elif isinstance(event, ErrorRecorded):
            self.errors.append(event)
        if self._queues and kind in _TOLD:
            self._tell(dump_line(event))

    def _tell(self, line: dict[str, Any]) -> None:
        for queue in self._queues:
            if queue.full():
                queue.get_nowait()
                self.counts["lines_dropped"] += 1
            queue.put_nowait(line)

    async def subscribe(self) -> AsyncIterator[dict[str, Any]]:
        """Yield a line per bar, decision, intent, refusal, fill, change of state and error from now on."""
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(QUEUE)
        self._queues.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._queues.discard(queue)

    def status(self, engine: Engine) -> dict[str, Any]:
        """Return the whole picture of one engine as plain data; money is text, exact."""
        account, risk, state = engine.account, engine.risk, engine.state
        return {
            "domain": state.domain,
            "epoch": state.epoch,
            "strategy": engine.strategy.name,
            "is_warm": engine.strategy.is_warm,
            "exchange_ms": risk.now_ms,
            "state": str(risk.state),
            "state_why": risk.state_why,
            "state_who": state.state_who,
            "entry_bans": dict(risk.entry_bans),
            "blocked": dict(risk.blocked),
            "wallet": dump_decimal(account.wallet),
            "equity": _money(account.equity()),
            "unrealized": _money(account.unrealized()),
            "pnl": _money(account.equity() - account.transfers),
            "fees": dump_decimal(account.fees),
            "funding": dump_decimal(account.funding),
            "day_pnl": _money(account.equity() - state.day_start_equity) if state.day >= 0 else None,
            "limits": msgspec.to_builtins(state.setup.limits) if state.setup is not None else {},
            "marks": dict(account.marks),
            "positions": [
                {
                    "symbol": position.symbol,
                    "side": str(position.side),
                    "quantity": dump_decimal(position.quantity),
                    "entry_price": _money(position.entry_price),
                    "unrealized": _money(position.unrealized(Decimal(str(account.marks[position.symbol]))))
                    if position.symbol in account.marks
                    else None,
                    "has_stop": any(
                        guard.client_order_id in state.protections and not engine.guard.owes(guard)
                        for key, guard in state.guard.items()
                        if key.partition(":")[0] == position.symbol
                    ),
                }
                for position in account.positions.values()
                if position.quantity
            ],
            "orders": [_order(order) for order in engine.orders.open()],
            "unsettled": sum(order.status in {"submitted", "unknown"} for order in engine.orders.open()),
            "last_decision": dump_line(self.decisions[-1]) if self.decisions else None,
            "fills": [dump_line(fill) for fill in list(self.fills)[-10:]],
            "errors": [dump_line(error) for error in list(self.errors)[-10:]],
            "counts": {name: self.counts[name] for name in ("candles", "decisions", "orders", "fills")},
            "refusals": dict(self.refusals),
        }


def _money(value: Decimal) -> str:
    return dump_decimal(value.quantize(Decimal("1E-8")))


def _order(order: Order) -> dict[str, Any]:
    intent = order.intent
    return {
        "client_order_id": order.client_order_id,
        "venue_order_id": order.venue_order_id,
        "symbol": intent.symbol,
        "side": str(intent.side),
        "type": str(intent.type),
        "role": str(intent.role),
        "quantity": dump_decimal(intent.quantity),
        "filled": dump_decimal(order.filled),
        "limit_price": None if intent.limit_price is None else dump_decimal(intent.limit_price),
        "stop_price": None if intent.stop_price is None else dump_decimal(intent.stop_price),
        "reduce_only": intent.reduce_only or intent.close_position,
        "status": str(order.status),
        "created_ms": order.created_ms,
        "why": intent.why,
    }
