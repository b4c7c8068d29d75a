"""Margin: leverage brackets, what positions need, and where they are liquidated."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from math import inf
from typing import Literal

import msgspec

from qmtl.core.account import Account
from qmtl.core.instrument import Instrument
from qmtl.core.money import ZERO
from qmtl.core.position import Position
from qmtl.engine.order_filter import MAX_NOTIONAL, VenueRefusalError

MarginMode = Literal["isolated", "cross", "cash", "none"]
"""isolated and cross as Binance USDT-M; cash is spot (no borrowing); none checks nothing."""

Band = tuple[float, float]
"""Mark prices strictly between which nothing is liquidated."""
EVERYWHERE: Band = (-inf, inf)
NOWHERE: Band = (inf, -inf)
_GUARD = 0.001


class LeverageBracket(msgspec.Struct, frozen=True):
    """One step of a ladder: positions worth up to `cap` quote units, their leverage and maintenance.

    Maintenance margin = notional x `rate` - `deduction` (Binance: maintMarginRatio, cum).
    """

    cap: Decimal
    max_leverage: int
    rate: Decimal
    deduction: Decimal


_LADDER = (
    ("50000", 125, "0.004"),
    ("600000", 100, "0.005"),
    ("3000000", 75, "0.0065"),
    ("12000000", 50, "0.01"),
    ("70000000", 25, "0.02"),
    ("100000000", 20, "0.025"),
    ("230000000", 10, "0.05"),
    ("480000000", 5, "0.1"),
    ("600000000", 4, "0.125"),
    ("800000000", 3, "0.15"),
    ("1200000000", 2, "0.25"),
    ("1800000000", 1, "0.5"),
)


def build_brackets(steps: Iterable[tuple[Decimal, int, Decimal]]) -> tuple[LeverageBracket, ...]:
    """Return the ladder of (cap, max leverage, rate) steps, its deductions making maintenance continuous."""
    brackets: list[LeverageBracket] = []
    floor = rate_before = deduction = ZERO
    for cap, max_leverage, rate in steps:
        deduction += floor * (rate - rate_before)
        brackets.append(LeverageBracket(cap, max_leverage, rate, deduction))
        floor, rate_before = cap, rate
    return tuple(brackets)


def standard_brackets(maintenance_rate: Decimal = Decimal("0.004")) -> tuple[LeverageBracket, ...]:
    """Return Binance's published BTCUSDT ladder, no step below `maintenance_rate`.

    Leverage is bounded so that the first margin is at least twice the maintenance margin.
    """
    steps = []
    for cap, leverage, rate in _LADDER:
        actual = max(Decimal(rate), maintenance_rate)
        steps.append((Decimal(cap), max(1, min(leverage, int(1 / (2 * actual)))), actual))
    return build_brackets(steps)


def find_bracket(brackets: Sequence[LeverageBracket], notional: Decimal) -> LeverageBracket:
    """Return the step that a position of `notional` quote units (>= 0) stands on."""
    for bracket in brackets:
        if notional <= bracket.cap:
            return bracket
    return brackets[-1]


def maintenance_margin(brackets: Sequence[LeverageBracket], notional: Decimal) -> Decimal:
    """Return the margin that must stay on a position of `notional` quote units (>= 0)."""
    bracket = find_bracket(brackets, notional)
    return notional * bracket.rate - bracket.deduction


def liquidation_price(
    balance: Decimal, positions: Sequence[Position], brackets: Sequence[LeverageBracket], mark: Decimal
) -> Decimal | None:
    """Return the mark price at which `positions` of one symbol, sharing `balance`, are liquidated.

    Binance's formula: (balance + deductions - signed cost) / (quantity x rate - signed quantity), with
    the step of the notional at that price; `balance` is the margin wallet plus the profit and minus the
    maintenance of everything else that shares it. None where no positive price liquidates.
    """
    price = mark
    for _ in range(len(brackets) + 1):
        numerator, denominator = balance, ZERO
        for position in positions:
            size = abs(position.quantity)
            bracket = find_bracket(brackets, size * price)
            numerator += bracket.deduction - position.cost
            denominator += size * bracket.rate - position.quantity
        if not denominator:
            return None
        found = numerator / denominator
        if found <= 0:
            return None
        if found == price:
            break
        price = found
    return price


class MarginBook:
    """Leverage, margin mode and brackets per symbol, and what the open positions tie up.

    `mark` gives the mark price of a symbol (its last price where no mark is published), None before
    the first. An isolated position holds |cost| / leverage plus what was added to it.
    """

    def __init__(
        self,
        account: Account,
        instruments: Mapping[str, Instrument],
        *,
        mark: Callable[[str], Decimal | None],
        mode: MarginMode = "isolated",
        leverage: int = 1,
        brackets: Mapping[str, Sequence[LeverageBracket]] | None = None,
    ) -> None:
        self._account = account
        self._mark = mark
        self.modes: dict[str, MarginMode] = dict.fromkeys(instruments, mode)
        self.has_cross = mode == "cross"
        self.leverages: dict[str, int] = dict.fromkeys(instruments, leverage)
        self.brackets: dict[str, tuple[LeverageBracket, ...]] = {
            symbol: tuple(given)
            if (given := (brackets or {}).get(symbol))
            else standard_brackets(instrument.maintenance_rate)
            for symbol, instrument in instruments.items()
        }
        self._ladders = {
            symbol: ([float(one.cap) for one in steps[:-1]], [float(one.rate) for one in steps])
            for symbol, steps in self.brackets.items()
        }
        self.added: dict[tuple[str, str], Decimal] = {}
        self.caps: dict[str, Decimal] = {symbol: self._cap(symbol) for symbol in instruments}

    def _cap(self, symbol: str) -> Decimal:
        leverage = self.leverages[symbol]
        allowed = [b.cap for b in self.brackets[symbol] if b.max_leverage >= leverage]
        return max(allowed, default=ZERO)

    def change_leverage(self, symbol: str, leverage: int, available: Callable[[], Decimal]) -> None:
        """Set the leverage of `symbol` and with it the largest notional (`caps`); VenueRefusalError."""
        before = self.leverages[symbol]
        if not 1 <= leverage <= self.brackets[symbol][0].max_leverage:
            raise VenueRefusalError(f"-4028 Leverage {leverage} is not valid")
        held = self.open_positions(symbol)
        if held and leverage < before and self.modes[symbol] == "isolated":
            raise VenueRefusalError(
                "-4161 Leverage reduction is not supported in Isolated Margin Mode with open positions."
            )
        self._set_leverage(symbol, leverage)
        if any(self.notional(position) > self.caps[symbol] for position in held):
            self._set_leverage(symbol, before)
            raise VenueRefusalError(MAX_NOTIONAL)
        if leverage < before and available() < 0:
            self._set_leverage(symbol, before)
            raise VenueRefusalError("-2028 Leverage is smaller than permitted: insufficient margin balance.")

    def _set_leverage(self, symbol: str, leverage: int) -> None:
        self.leverages[symbol] = leverage
        self.caps[symbol] = self._cap(symbol)

    def change_mode(self, symbol: str, mode: MarginMode, *, has_orders: bool) -> None:
        """Set the margin mode of `symbol`; VenueRefusalError when nothing changes or something is open."""
        if self.modes[symbol] == mode:
            raise VenueRefusalError("-4046 No need to change margin type.")
        if has_orders:
            raise VenueRefusalError("-4047 Margin type cannot be changed if there exists open orders.")
        if self.open_positions(symbol):
            raise VenueRefusalError("-4048 Margin type cannot be changed if there exists position.")
        self.modes[symbol] = mode
        self.has_cross = "cross" in self.modes.values()

    def add(self, position: Position, amount: Decimal, available: Decimal) -> None:
        """Move `amount` to (negative: from) an isolated position; VenueRefusalError."""
        if self.modes[position.symbol] != "isolated":
            raise VenueRefusalError("-4049 Add margin only support for isolated position.")
        if not position.quantity:
            raise VenueRefusalError("-4054 Cannot add position margin: position is 0.")
        if amount > available:
            raise VenueRefusalError("-4050 Cross balance insufficient.")
        key = (position.symbol, position.side)
        total = self.added.get(key, ZERO) + amount
        if total < 0:
            raise VenueRefusalError("-4051 Isolated balance insufficient.")
        self.added[key] = total

    def open_positions(self, symbol: str | None = None, mode: MarginMode | None = None) -> list[Position]:
        """Return positions that hold something, of one symbol or margin mode where given."""
        return [
            position
            for position in self._account.positions.values()
            if position.quantity
            and (symbol is None or position.symbol == symbol)
            and (mode is None or self.modes[position.symbol] == mode)
        ]

    def notional(self, position: Position) -> Decimal:
        """Return the position's value at the mark, at its cost before the first mark."""
        mark = self._mark(position.symbol)
        return abs(position.cost) if mark is None else abs(position.quantity) * mark

    def unrealized(self, position: Position) -> Decimal:
        """Return open profit at the mark, zero before the first mark."""
        mark = self._mark(position.symbol)
        return ZERO if mark is None else position.unrealized(mark)

    def maintenance(self, position: Position) -> Decimal:
        """Return the position's maintenance margin."""
        return maintenance_margin(self.brackets[position.symbol], self.notional(position))

    def initial(self, position: Position) -> Decimal:
        """Return what the position ties up: its isolated wallet, or its cross initial margin."""
        symbol = position.symbol
        mode = self.modes[symbol]
        if mode == "cross":
            return self.notional(position) / self.leverages[symbol]
        if mode == "none":
            return ZERO
        held = abs(position.cost) / self.leverages[symbol]
        return held + self.added.get((symbol, position.side), ZERO) if self.added else held

    def available(self) -> Decimal:
        """Return wallet plus cross profit minus what positions tie up; order margin is not in it."""
        free = self._account.wallet
        for position in self._account.positions.values():
            if position.quantity:
                free -= self.initial(position)
                if self.modes[position.symbol] == "cross":
                    free += self.unrealized(position)
        return free

    def shared_balance(self, symbol: str) -> Decimal:
        """Return what backs cross positions of `symbol`.

        The wallet without isolated margins, plus the profit and minus the maintenance of the other
        cross positions.
        """
        balance = self._account.wallet
        for position in self.open_positions():
            mode = self.modes[position.symbol]
            if mode == "isolated":
                balance -= self.initial(position)
            elif mode == "cross" and position.symbol != symbol:
                balance += self.unrealized(position) - self.maintenance(position)
        return balance

    def find_liquidation_price(self, position: Position) -> Decimal | None:
        """Return the mark at which `position` is liquidated, None when flat or nowhere."""
        symbol = position.symbol
        mark = self._mark(symbol)
        mode = self.modes[symbol]
        if mark is None or not position.quantity or mode not in {"isolated", "cross"}:
            return None
        if mode == "isolated":
            return liquidation_price(self.initial(position), [position], self.brackets[symbol], mark)
        together = self.open_positions(symbol)
        return liquidation_price(self.shared_balance(symbol), together, self.brackets[symbol], mark)

    def find_doomed(self, symbol: str) -> list[Position]:
        """Return the positions that the present mark of `symbol` liquidates.

        Isolated: each position whose margin plus profit is at or below its maintenance. Cross: all
        cross positions when the shared balance is at or below their maintenance together.
        """
        mode = self.modes[symbol]
        if mode == "isolated":
            return [
                position
                for position in self.open_positions(symbol)
                if self.initial(position) + self.unrealized(position) <= self.maintenance(position)
            ]
        if mode != "cross":
            return []
        crossed = self.open_positions(mode="cross")
        left = self.shared_balance("")
        return crossed if crossed and left <= ZERO else []

    def band(self, symbol: str) -> Band:
        """Return prices between which `find_doomed` need not be asked; rather too narrow."""
        # Written out, not `open_positions`: it is asked after every fill.
        held = [one for one in self._account.positions.values() if one.quantity and one.symbol == symbol]
        if not held:
            return EVERYWHERE
        mode = self.modes[symbol]
        position = held[0]
        if len(held) == 1 and mode == "isolated":
            return self._isolated_band(position)
        if mode not in {"isolated", "cross"}:
            return EVERYWHERE
        if len(held) > 1 or (mode == "cross" and len(self.open_positions(mode="cross")) > 1):
            return NOWHERE
        price = self.find_liquidation_price(position)
        if price is None:
            return EVERYWHERE
        if position.quantity > 0:
            return (float(price) * (1 + _GUARD), inf)
        return (-inf, float(price) * (1 - _GUARD))

    def _isolated_band(self, position: Position) -> Band:
        # Floats and the highest step that the way there can touch: early, but cheap at every entry.
        leverage = self.leverages[position.symbol]
        size, cost = float(position.quantity), float(position.cost)
        caps, rates = self._ladders[position.symbol]
        if size > 0:
            if leverage == 1:
                return EVERYWHERE
            rate = rates[bisect_left(caps, cost)]
            return ((cost - cost / leverage) / (size * (1 - rate)) * (1 + _GUARD), inf)
        size, cost = -size, -cost
        rate = rates[bisect_left(caps, 2 * cost)]
        return (-inf, (cost + cost / leverage) / (size * (1 + rate)) * (1 - _GUARD))
