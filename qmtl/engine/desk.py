"""The `Controlled` of a running `LiveEngine`: what its board shows, and what only the process knows."""

from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from qmtl.core.event import AnyEvent, ClockChecked, DecisionMade, FeedStateChanged, OrderFilled
from qmtl.core.interval import DAY_MS
from qmtl.core.money import ZERO, dump_decimal
from qmtl.core.order import UNSETTLED, PositionSide
from qmtl.core.position import Position
from qmtl.engine.board import Board
from qmtl.engine.live import LiveEngine
from qmtl.engine.margin import liquidation_price, standard_brackets
from qmtl.engine.tap import TappedJournal


class Desk:
    """Status, news, health and events of one owner; listens to its tapped journal from construction on.

    `leverage` estimates where a position is liquidated; `more`, and `extras` added later, tell what only
    the process knows (feed ages, weight used, backup age).
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
        self.board = Board(self._is_known)
        self.account = account
        self.extras: list[Callable[[], dict[str, Any]]] = [] if more is None else [more]
        self._journal = journal
        self._leverage = leverage
        self._clock_offset_ms: float | None = None
        self._feeds: dict[str, dict[str, Any]] = {}
        self._reasons: dict[str, int] = {}
        self._day = -1
        self._day_start = ZERO
        self._peak = ZERO
        tap.listeners += [self.board.on_event, self._listen]

    def health(self) -> tuple[bool, str]:
        """See Controlled."""
        return self.live.health()

    def ready(self) -> tuple[bool, list[str]]:
        """See Controlled."""
        return self.live.ready()

    async def post(self, event: AnyEvent) -> None:
        """See Controlled."""
        self.live.post(event)

    def subscribe(self) -> AsyncIterator[dict[str, Any]]:
        """See Controlled."""
        return self.board.subscribe()

    def status(self) -> dict[str, Any]:
        """See Controlled: plain data, numbers of money as text."""
        engine = self.live.engine
        state, account = engine.state, engine.account
        held = [position for position in account.positions.values() if position.quantity]
        orders = [*engine.risk.working.values(), *state.protections.values()]
        waits = [self._age_s(order.updated_ms) for order in orders if order.status in UNSETTLED]
        body = self.board.status(engine)
        is_ready, reasons = self.ready()
        for shown, position in zip(body["positions"], held, strict=True):
            shown.update(self._describe(position))
        # Without a loss limit the engine does not watch losses; people still want to see them.
        start = state.day_start_equity if state.day >= 0 else self._day_start
        equity, peak = account.equity(), max(state.peak_equity, self._peak)
        body |= {
            "day_pnl": dump_decimal(round(equity - start, 8)) if self._day >= 0 or state.day >= 0 else "0",
            "account": self.account,
            "asset": account.asset,
            "is_ready": is_ready,
            "not_ready": reasons,
            "now_ms": self.live.clock.now_ms(),
            "speed": self.live.clock.speed,
            "loop_age_s": self.live.loop_age_s,
            "journal": None if self._journal is None else str(self._journal),
            "exposure": dump_decimal(sum((abs(p.quantity) * self._mark(p) for p in held), ZERO)),
            "drawdown": float((peak - equity) / peak) if peak > 0 else 0.0,
            "unsettled_age_s": max(waits, default=0.0),
            "reasons": dict(self._reasons),
            "feeds": {stream: dict(feed) for stream, feed in self._feeds.items()},
            "clock_offset_ms": self._clock_offset_ms,
        }
        for extra in self.extras:
            body |= extra()
        return body

    def _describe(self, position: Position) -> dict[str, Any]:
        """Return what protects a position, how far it is from liquidation and from what the venue says."""
        state, mark = self.live.engine.state, self._mark(position)
        key = position.symbol if position.side is PositionSide.BOTH else f"{position.symbol}:{position.side}"
        guard, drift = state.guard.get(key), state.drifts.get(key)
        is_owed = guard is not None and self.live.engine.guard.owes(guard)
        since_ms = guard.owed_since_ms if guard is not None and is_owed else None
        stop = None if guard is None or is_owed else state.protections.get(guard.client_order_id)
        return {
            "mark": dump_decimal(mark),
            "stop": None if stop is None or stop.intent.stop_price is None else str(stop.intent.stop_price),
            "unprotected_s": 0.0 if since_ms is None else self._age_s(since_ms),
            "venue_quantity": None if drift is None else dump_decimal(drift[0]),
            "drift_s": 0.0 if drift is None else self._age_s(drift[1]),
            "liquidation_distance": self._liquidation_distance(position, mark),
        }

    def _liquidation_distance(self, position: Position, mark: Decimal) -> float | None:
        instrument = self.live.engine.risk.instruments.get(position.symbol)
        if instrument is None or not mark:
            return None
        brackets = standard_brackets(instrument.maintenance_rate)
        price = liquidation_price(abs(position.cost) / self._leverage, [position], brackets, mark)
        return None if price is None else float(abs(mark - price) / mark)

    def _mark(self, position: Position) -> Decimal:
        mark = self.live.engine.account.marks.get(position.symbol)
        return position.entry_price if mark is None else Decimal(str(mark))

    def _age_s(self, since_ms: int) -> float:
        clock = self.live.clock
        return max(0.0, (clock.now_ms() - since_ms) / 1000 / clock.speed)

    def _watch_equity(self, ts_ms: int) -> None:
        if "not_reconciled" in self.live.engine.risk.entry_bans:
            return  # the wallet is not known yet: measured from 0 the whole of it would be profit
        equity = self.live.engine.account.equity()
        self._peak = max(self._peak, equity)
        if ts_ms // DAY_MS != self._day:
            self._day, self._day_start = ts_ms // DAY_MS, equity

    def _is_known(self, fill: OrderFilled) -> bool:
        """Tell whether a fill was folded before: stream and history both tell of those around a gap."""
        engine = self.live.engine
        order = engine.orders.find(fill.client_order_id)
        if order is None:
            return f"{fill.symbol}:{fill.trade_id}" in engine.state.foreign_trades
        return fill.trade_id in order.trade_ids

    def _listen(self, event: AnyEvent) -> None:
        if isinstance(event, DecisionMade):
            self._watch_equity(event.ts_ms)
            self._reasons[event.reason] = self._reasons.get(event.reason, 0) + 1
        elif isinstance(event, ClockChecked):
            self._clock_offset_ms = event.offset_ms
        elif isinstance(event, FeedStateChanged):
            self._feeds[event.stream] = {"is_fresh": event.is_fresh, "reason": event.reason}
