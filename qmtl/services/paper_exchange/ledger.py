"""Wallet, positions and income of an account as its user stream tells them, one event after the other."""

from collections.abc import Iterable
from decimal import Decimal
from itertools import count

from qmtl.core.event import FundingPaid, OrderFilled, Transferred
from qmtl.core.money import ZERO
from qmtl.core.order import PositionSide
from qmtl.core.position import Position
from qmtl.engine.matching import MatchingCore
from qmtl.services.paper_exchange import user_stream
from qmtl.services.paper_exchange.records import IncomeRecord
from qmtl.services.paper_exchange.user_stream import Message

_CALL_RATIO = Decimal("0.8")
"""Maintenance margin over margin balance from which the venue warns."""


class Ledger:
    """Folds the core's events once more, because a message shows the account between two of them.

    The core answers a command with everything it caused; the venue tells each fill with the position
    and the wallet right after it.
    """

    def __init__(self, core: MatchingCore, asset: str) -> None:
        self.core = core
        self.asset = asset
        self.wallet = core.account.wallet
        self.incomes: list[IncomeRecord] = []
        self._positions: dict[tuple[str, PositionSide], Position] = {}
        self._numbers = count(1)
        self._called: set[tuple[str, PositionSide]] = set()

    def position(self, symbol: str, side: PositionSide) -> Position:
        """Return the position as of the last event booked."""
        held = self._positions.get((symbol, side))
        if held is None:
            held = self._positions[symbol, side] = Position(symbol, side)
        return held

    def fill(self, event: OrderFilled, ts_ms: int, *, is_liquidation: bool) -> Decimal:
        """Book a fill and return the profit it realised before its fee."""
        position = self.position(event.symbol, event.position_side)
        realized = position.fold(event.side, event.quantity, event.price, ts_ms)
        self.wallet += realized - event.fee
        self._earn(event.symbol, "COMMISSION", -event.fee, event.trade_id, ts_ms)
        if realized:
            kind = "INSURANCE_CLEAR" if is_liquidation else "REALIZED_PNL"
            self._earn(event.symbol, kind, realized, event.trade_id, ts_ms)
        return realized

    def fund(self, event: FundingPaid, ts_ms: int) -> Message:
        """Book funding and return its ACCOUNT_UPDATE."""
        self.wallet += event.amount
        self._earn(event.symbol, "FUNDING_FEE", event.amount, event.funding_id, ts_ms)
        held = [p for p in self._positions.values() if p.symbol == event.symbol and p.quantity]
        return self.account_update("FUNDING_FEE", ts_ms, held, event.amount)

    def transfer(self, event: Transferred, ts_ms: int) -> Message:
        """Book money moved in or out, or what the insurance fund took over; return its ACCOUNT_UPDATE."""
        self.wallet += event.amount
        if event.transfer_id.startswith("insurance"):
            kind, reason = "INSURANCE_CLEAR", "INSURANCE_CLEAR"
        else:
            kind, reason = "TRANSFER", "DEPOSIT" if event.amount > 0 else "WITHDRAW"
        self._earn("", kind, event.amount, event.transfer_id, ts_ms)
        return self.account_update(reason, ts_ms, [], event.amount)

    def account_update(
        self, reason: str, ts_ms: int, positions: Iterable[Position], change: Decimal = ZERO
    ) -> Message:
        """Return ACCOUNT_UPDATE with the wallet and `positions` as they stand."""
        margin = self.core.margin
        rows = []
        for position in positions:
            mode = margin.modes[position.symbol]
            isolated = margin.initial(position) if mode == "isolated" and position.quantity else ZERO
            mark = self.core.book(position.symbol).mark_price()
            rows.append(user_stream.position_row(position, mark=mark, mode=mode, isolated=isolated))
        tied = sum((margin.initial(p) for p in margin.open_positions(mode="isolated")), ZERO)
        return user_stream.account_update(
            reason, ts_ms, (self.asset, self.wallet, self.wallet - tied, change), rows
        )

    def margin_call(self, ts_ms: int) -> Message | None:
        """Return MARGIN_CALL when a position has come close to liquidation since the last look."""
        margin = self.core.margin
        held = margin.open_positions()
        rows = []
        near: set[tuple[str, PositionSide]] = set()
        for position in held:
            mode = margin.modes[position.symbol]
            maintenance = margin.maintenance(position)
            if mode == "isolated":
                backing = margin.initial(position) + margin.unrealized(position)
            else:
                backing = margin.shared_balance(position.symbol) + margin.unrealized(position)
            mark = self.core.book(position.symbol).mark_price()
            if mark is None or maintenance < backing * _CALL_RATIO:
                continue
            key = (position.symbol, position.side)
            near.add(key)
            if key not in self._called:
                isolated = margin.initial(position) if mode == "isolated" else ZERO
                rows.append(
                    user_stream.margin_call_row(
                        position, mode=mode, isolated=isolated, mark=mark, maintenance=maintenance
                    )
                )
        self._called = near
        return user_stream.margin_call(self.wallet, rows, ts_ms) if rows else None

    def _earn(self, symbol: str, kind: str, amount: Decimal, cause: str, ts_ms: int) -> None:
        self.incomes.append(
            IncomeRecord(
                income_id=next(self._numbers),
                symbol=symbol,
                kind=kind,
                amount=amount,
                asset=self.asset,
                info=cause or kind,
                time_ms=ts_ms,
                trade_id=cause,
            )
        )
