"""How a strategy is traded: markets and size. It comes from qmtl.yml, never from the strategy."""

from collections.abc import Mapping
from decimal import Decimal
from itertools import pairwise
from math import log, sqrt
from typing import Any

import msgspec

from qmtl.core.account import Account
from qmtl.core.instrument import Instrument
from qmtl.core.interval import parse_interval
from qmtl.core.money import ZERO

YEAR_MS = 365 * 86_400_000
USUAL_SHARE = Decimal("0.1")
"""Share of equity in a position where no size is configured."""


class TradePlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Markets, candle and size of a run; one of the four sizes is given, else a tenth of equity is traded.

    `symbols` are exchange names joined by commas; `quantity` is base units, `notional` quote units,
    `size_pct` a fraction of equity, `volatility_target` the yearly standard deviation the position should
    have as a fraction of equity, measured over the last `volatility_window` closes.
    """

    symbols: str = "BTCUSDT"
    interval: str = "1m"
    quantity: Decimal | None = None
    notional: Decimal | None = None
    size_pct: Decimal | None = None
    volatility_target: Decimal | None = None
    volatility_window: int = 1_440

    @property
    def markets(self) -> tuple[str, ...]:
        """The symbols, the first being the one a strategy means when it names none."""
        return tuple(self.symbols.split(","))

    @property
    def interval_ms(self) -> int:
        """Length of a candle."""
        return parse_interval(self.interval)

    def describe(self) -> str:
        """Say the size in words for reports."""
        if self.quantity is not None:
            return f"size {self.quantity} base units"
        if self.notional is not None:
            return f"size {self.notional} quote units"
        if self.volatility_target is not None:
            return f"size for a volatility of {self.volatility_target * 100:f} % a year"
        share = USUAL_SHARE if self.size_pct is None else self.size_pct
        return f"size {(share * 100).normalize():f} % of equity"

    def size(self, account: Account, instrument: Instrument, price: float, closes: Any = ()) -> Decimal:
        """Return base units of an entry at `price`, on the lot; ZERO when the venue wants more than that.

        `closes` are the last volatility_window + 1 closes, needed for a volatility target alone.
        """
        at = Decimal(str(price))
        quantity = instrument.floor_quantity(self._wanted(account, at, closes))
        return quantity if quantity * at >= instrument.min_notional else ZERO

    def _wanted(self, account: Account, at: Decimal, closes: Any) -> Decimal:
        if self.quantity is not None:
            return self.quantity
        if self.notional is not None:
            return self.notional / at
        equity = max(account.equity(), ZERO)
        if self.volatility_target is not None:
            spread = yearly_volatility(closes, self.interval_ms)
            if not spread:
                return ZERO
            # Rounded, so that the last bits of a logarithm decide nothing.
            return equity * self.volatility_target / Decimal(str(round(spread, 9))) / at
        share = USUAL_SHARE if self.size_pct is None else self.size_pct
        return equity * share / at

    def dump(self) -> dict[str, str | int | float | bool | None]:
        """Return plain data that `parse_plan` takes back."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return {
            name: str(value) if isinstance(value, Decimal) else value
            for name, value in fields.items()
            if value is not None
        }


def parse_plan(body: Mapping[str, Any]) -> TradePlan:
    """Build a plan of plain data; msgspec.ValidationError names what is wrong."""
    return msgspec.convert(dict(body), TradePlan, strict=False)


def yearly_volatility(closes: Any, interval_ms: int) -> float:
    """Return the yearly standard deviation of log returns (their mean taken as 0), 0.0 of fewer than 2."""
    numbers = [float(close) for close in closes]
    if len(numbers) < 2:
        return 0.0
    squares = 0.0
    for before, after in pairwise(numbers):
        change = log(after / before)
        squares += change * change
    return sqrt(squares / (len(numbers) - 1) * (YEAR_MS / interval_ms))
