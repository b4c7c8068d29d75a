"""What a running owner shows and is told: status, news, health, and events from the control port."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from qmtl.core.event import (
    AnyEvent,
    BarClosed,
    ClockChecked,
    DecisionMade,
    Event,
    FeedStateChanged,
    IntentRecorded,
    IntentRefused,
    OrderFilled,
    PriceUpdated,
)
from qmtl.core.money import ZERO, dump_decimal
from qmtl.core.order import UNSETTLED, Order, PositionSide
from qmtl.core.position import Position
from qmtl.engine.live import LiveEngine
from qmtl.engine.margin import liquidation_price, standard_brackets
from qmtl.engine.tap import TappedJournal

NEWS_KEPT = 2_000
"""News a slow subscriber may fall behind before the oldest are dropped."""
DECISIONS_KEPT = 50

_NO_NEWS = frozenset({"TimerFired", "AccountReconciled", "SessionStarted"})


class Counts(msgspec.Struct):
    """How much happened since the process started."""

    candles: int = 0
    decisions: int = 0
    orders: int = 0
    fills: int = 0
    refusals: int = 0
    reconnects: int = 0
    reasons: dict[str, int] = {}


class Desk:
    """The `Controlled` of a `LiveEngine`; listens to its tapped journal from construction on.

    `leverage` estimates where a position is liquidated; `more` adds what only the process knows (feed
    ages, weight used, backup age).
    """

    def __init__(
        self,
        live: LiveEngine,
        tap: TappedJournal,
        *,
        account: str,
        journal: Path | None = None,
        leverage: int = 1,
        more: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self.live = live
        self.account = account
        self.counts = Counts()
        self.decisions: deque[dict[str, Any]] = deque(maxlen=DECISIONS_KEPT)
        self._journal = journal
        self._leverage = leverage
        self._more = more
        self._clock_offset_ms: float | None = None
        self._feeds: dict[str, dict[str, Any]] = {}
        self._forming: dict[str, PriceUpdated | BarClosed] = {}
        self._queues: set[_News] = set()
        tap.listeners.append(self._listen)

    # --- Controlled ----------------------------------------------------------------------------------

    def health(self) -> tuple[bool, str]:
        """See Controlled."""
        return self.live.health()

    def ready(self) -> tuple[bool, list[str]]:
        """See Controlled."""
        return self.live.ready()

    async def post(self, event: AnyEvent) -> None:
        """See Controlled."""
        self.live.post(event)

    async def subscribe(self) -> AsyncIterator[dict[str, Any]]:
        """See Controlled: first the whole status, then every event as it is journaled."""
        queue = _News()
        self._queues.add(queue)
        try:
            yield {"type": "status", **self.status()}
            while True:
                yield await queue.get()
        finally:
            self._queues.discard(queue)

    def status(self) -> dict[str, Any]:
        """See Controlled: plain data, numbers of money as text."""
        engine = self.live.engine
        state, risk, account = engine.state, engine.risk, engine.account
        is_ready, reasons = self.live.ready()
        equity = account.equity()
        orders = [*risk.working.values(), *state.protections.values()]
        unsettled = [order for order in orders if order.status in UNSETTLED]
        body = {
            "account": self.account,
            "domain": state.domain,
            "strategy": engine.strategy.name,
            "state": str(risk.state),
            "state_who": state.state_who,
            "state_why": risk.state_why,
            "is_ready": is_ready,
            "not_ready": reasons,
            "now_ms": self.live.clock.now_ms(),
            "speed": self.live.clock.speed,
            "epoch": state.epoch,
            "journal": None if self._journal is None else str(self._journal),
            "asset": account.asset,
            "wallet": _text(account.wallet),
            "equity": _text(equity),
            "pnl": _text(equity - account.transfers),
            "fees": _text(account.fees),
            "funding": _text(account.funding),
            "day_pnl": _text(equity - state.day_start_equity) if state.day >= 0 else "0",
            "drawdown": _share(state.peak_equity - equity, state.peak_equity),
            "exposure": _text(sum((self._notional(p) for p in self._held()), ZERO)),
            "positions": [self._describe_position(position) for position in self._held()],
            "orders": [_describe_order(order) for order in orders],
            "unsettled": len(unsettled),
            "unsettled_age_s": max((self._age_s(order.updated_ms) for order in unsettled), default=0.0),
            "limits": {} if state.setup is None else _describe_limits(state.setup.limits),
            "counts": msgspec.to_builtins(self.counts),
            "decision": self.decisions[-1] if self.decisions else None,
            "prices": {symbol: bar.close for symbol, bar in self._forming.items()},
            "feeds": {stream: dict(feed) for stream, feed in self._feeds.items()},
            "clock_offset_ms": self._clock_offset_ms,
        }
        return body | (self._more() if self._more is not None else {})

    # --- parts of the status -------------------------------------------------------------------------

    def _held(self) -> list[Position]:
        return [position for position in self.live.engine.account.positions.values() if position.quantity]

    def _mark(self, position: Position) -> Decimal:
        mark = self.live.engine.account.marks.get(position.symbol)
        return position.entry_price if mark is None else Decimal(str(mark))

    def _notional(self, position: Position) -> Decimal:
        return abs(position.quantity) * self._mark(position)

    def _age_s(self, since_ms: int) -> float:
        clock = self.live.clock
        return max(0.0, (clock.now_ms() - since_ms) / 1000 / clock.speed)

    def _describe_position(self, position: Position) -> dict[str, Any]:
        engine = self.live.engine
        symbol, mark = position.symbol, self._mark(position)
        key = symbol if position.side is PositionSide.BOTH else f"{symbol}:{position.side}"
        guard = engine.state.guard.get(key)
        owed_ms = None if guard is None else guard.owed_since_ms
        stop = None if guard is None else engine.state.protections.get(guard.client_order_id)
        drift = engine.state.drifts.get(key)
        return {
            "symbol": symbol,
            "side": str(position.side),
            "quantity": _text(position.quantity),
            "entry_price": _text(position.entry_price),
            "mark": _text(mark),
            "unrealized": _text(position.unrealized(mark)),
            "opened_ms": position.opened_ms,
            "stop": None if stop is None or owed_ms is not None else _text(stop.intent.stop_price or ZERO),
            "unprotected_s": 0.0 if owed_ms is None else self._age_s(owed_ms),
            "venue_quantity": None if drift is None else _text(drift[0]),
            "drift_s": 0.0 if drift is None else self._age_s(drift[1]),
            "liquidation_distance": self._liquidation_distance(position, mark),
        }

    def _liquidation_distance(self, position: Position, mark: Decimal) -> float | None:
        instrument = self.live.engine.risk.instruments.get(position.symbol)
        if instrument is None or not mark:
            return None
        margin = abs(position.cost) / self._leverage
        brackets = standard_brackets(instrument.maintenance_rate)
        price = liquidation_price(margin, [position], brackets, mark)
        return None if price is None else float(abs(mark - price) / mark)

    # --- news ----------------------------------------------------------------------------------------

    def _listen(self, event: AnyEvent) -> None:
        self._count(event)
        if self._queues and type(event).__name__ not in _NO_NEWS:
            news = dump_news(event)
            for queue in self._queues:
                queue.put(news)

    def _count(self, event: AnyEvent) -> None:
        counts = self.counts
        if isinstance(event, PriceUpdated):
            self._forming[event.symbol] = event
        elif isinstance(event, BarClosed):
            self._forming[event.symbol] = event
            counts.candles += not event.warmup
        elif isinstance(event, DecisionMade):
            counts.decisions += 1
            counts.reasons[event.reason] = counts.reasons.get(event.reason, 0) + 1
            self.decisions.append(dump_news(event))
        elif isinstance(event, OrderFilled):
            counts.fills += 1
        elif isinstance(event, IntentRecorded):
            counts.orders += 1
        elif isinstance(event, IntentRefused):
            counts.refusals += 1
        elif isinstance(event, ClockChecked):
            self._clock_offset_ms = event.offset_ms
        elif isinstance(event, FeedStateChanged):
            was = self._feeds.get(event.stream)
            counts.reconnects += was is not None and not was["is_fresh"] and event.is_fresh
            self._feeds[event.stream] = {"is_fresh": event.is_fresh, "reason": event.reason}


class _News:
    """News waiting for one subscriber; the oldest go when it is too slow."""

    def __init__(self) -> None:
        self._waiting: deque[dict[str, Any]] = deque(maxlen=NEWS_KEPT)
        self._filled = asyncio.Event()

    def put(self, news: dict[str, Any]) -> None:
        self._waiting.append(news)
        self._filled.set()

    async def get(self) -> dict[str, Any]:
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        return self._waiting.popleft()


def dump_news(event: Event) -> dict[str, Any]:
    """Return an event as plain data: `type`, then its fields; money as text."""
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    plain: dict[str, Any] = msgspec.to_builtins(fields, str_keys=True)
    return {"type": type(event).__name__, **plain}


def _describe_order(order: Order) -> dict[str, Any]:
    intent = order.intent
    return {
        "client_order_id": order.client_order_id,
        "venue_order_id": order.venue_order_id,
        "symbol": intent.symbol,
        "side": str(intent.side),
        "type": str(intent.type),
        "quantity": _text(intent.quantity),
        "filled": _text(order.filled),
        "limit_price": None if intent.limit_price is None else _text(intent.limit_price),
        "stop_price": None if intent.stop_price is None else _text(intent.stop_price),
        "reduce_only": intent.reduce_only or intent.close_position,
        "status": str(order.status),
        "role": str(intent.role),
        "why": intent.why,
        "created_ms": order.created_ms,
    }


def _describe_limits(limits: msgspec.Struct) -> dict[str, str | None]:
    found = {name: getattr(limits, name) for name in limits.__struct_fields__}
    return {name: None if value is None else str(value) for name, value in found.items()}


def _text(value: Decimal) -> str:
    return dump_decimal(round(value, 8))


def _share(part: Decimal, whole: Decimal) -> float:
    return float(part / whole) if whole > 0 else 0.0
