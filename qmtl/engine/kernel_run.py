"""What one run of the kernel came to: trades and equity as whole numbers, and in quote units."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from qmtl.core.instrument import Instrument

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]


class Steps(Protocol):
    """What whole numbers of a run mean; `value` is the money of one lot at one price step."""

    instrument: Instrument
    price_step: Decimal
    money_step: Decimal
    value: int


class Curve(NamedTuple):
    """Equity as it is asked for: `draw(unit, out)` writes `size` values, money of the kernel times `unit`."""

    size: int
    draw: Callable[[float, Floats | Whole], Any]


class KernelRun(NamedTuple):
    """One run: trades as whole numbers by `kernel_loop` column, equity at the marks, counts of events."""

    market: Steps
    trades: Whole
    curve: Curve
    conflicts: int
    refusals: int
    bars_held: int
    turnover_money: int

    @property
    def equity_money(self) -> Whole:
        """Equity in money steps at the closes of the rows asked for."""
        drawn = np.empty(self.curve.size, np.int64)
        self.curve.draw(1, drawn)
        return drawn

    @property
    def equity(self) -> Floats:
        """Equity in quote units at the closes of the rows asked for."""
        drawn = np.empty(self.curve.size)
        self.curve.draw(float(self.market.money_step), drawn)
        return drawn

    @property
    def turnover(self) -> float:
        """Notional of all fills in quote units."""
        return self.turnover_money * float(self.market.money_step)

    def profits(self) -> Floats:
        """Profit of each closed trade after fees and funding, quote units."""
        from qmtl.engine.kernel_loop import earn

        return earn(self.trades, self.market.value, float(self.market.money_step))
