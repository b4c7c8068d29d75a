"""The account: what fills, fees and funding made of the first balance."""

from decimal import Decimal

import msgspec

from qmtl.core.money import ZERO
from qmtl.core.order import PositionSide, Side
from qmtl.core.position import Position

# Reading a member off its enum costs as much as a decimal operation on Python 3.11.
_BUY = Side.BUY
_BOTH = PositionSide.BOTH


class ConservationError(ArithmeticError):
    """Cash and position value no longer add up; trading on would be guessing."""


class Account(msgspec.Struct):
    """Wallet and positions of one account in its settle currency.

    `wallet` moves by realised profit, fees, funding and transfers; `flow` moves by the raw cash of
    every fill. The two are written by different sums, so wallet == flow + open cost is a real check.
    """

    asset: str = "USDT"
    wallet: Decimal = ZERO
    flow: Decimal = ZERO
    realized: Decimal = ZERO
    fees: Decimal = ZERO
    funding: Decimal = ZERO
    transfers: Decimal = ZERO
    positions: dict[str, Position] = {}
    marks: dict[str, float] = {}

    def position(self, symbol: str, side: PositionSide = PositionSide.BOTH) -> Position:
        """Return the position of `symbol` and `side`, made flat at its first mention."""
        key = symbol if side is _BOTH else f"{symbol}:{side}"
        held = self.positions.get(key)
        if held is None:
            held = self.positions[key] = Position(symbol, side)
        return held

    def net_quantity(self, symbol: str) -> Decimal:
        """Return the signed base units held in `symbol` over all position sides."""
        return sum((p.quantity for p in self.positions.values() if p.symbol == symbol), ZERO)

    def fill(
        self,
        position: Position,
        side: Side,
        quantity: Decimal,
        price: Decimal,
        fee: Decimal,
        ts_ms: int,
    ) -> Decimal:
        """Book one fill and its fee; return the profit realised before the fee."""
        realized = position.fold(side, quantity, price, ts_ms)
        value = quantity * price
        if side is _BUY:
            self.flow -= value + fee
        else:
            self.flow += value - fee
        if realized:
            self.wallet += realized - fee
            self.realized += realized
        else:
            self.wallet -= fee
        self.fees += fee
        return realized

    def pay_funding(self, amount: Decimal) -> None:
        """Book funding: positive is received, negative is paid."""
        self.flow += amount
        self.wallet += amount
        self.funding += amount

    def transfer(self, amount: Decimal) -> None:
        """Book money moved in (positive) or out."""
        self.flow += amount
        self.wallet += amount
        self.transfers += amount

    def check_conservation(self) -> None:
        """Raise ConservationError unless wallet equals cash flow plus open cost, to the last decimal."""
        cost = ZERO
        for position in self.positions.values():
            cost += position.cost
        if self.wallet != self.flow + cost:
            message = f"wallet {self.wallet} is not cash flow {self.flow} plus open cost {cost}"
            raise ConservationError(message)

    def unrealized(self) -> Decimal:
        """Return open profit at the last marks; a position without mark counts at its cost."""
        total = ZERO
        for position in self.positions.values():
            mark = self.marks.get(position.symbol)
            if position.quantity and mark is not None:
                total += position.unrealized(Decimal(str(mark)))
        return total

    def equity(self) -> Decimal:
        """Return wallet plus open profit."""
        return self.wallet + self.unrealized()


class Balance(msgspec.Struct, frozen=True):
    """One asset of an account as its broker states it: in all, free for new orders, and held by open ones."""

    asset: str
    total: Decimal
    free: Decimal
    used: Decimal
