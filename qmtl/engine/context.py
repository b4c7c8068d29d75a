"""What a strategy sees of the engine."""

from bisect import insort
from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

from qmtl.core.account import Account
from qmtl.core.instrument import Instrument
from qmtl.core.order import Order

if TYPE_CHECKING:
    from qmtl.engine.engine import Engine


class EngineContext:
    """The strategy's side of one engine; see engine.strategy.Context for each member."""

    __slots__ = ("_engine", "account", "position", "submit")

    def __init__(self, engine: "Engine") -> None:
        """Face `engine`."""
        self._engine = engine
        self.account: Account = engine.account
        self.position = engine.account.position
        self.submit = engine.submit

    @property
    def now_ms(self) -> int:
        """See Context."""
        return self._engine.risk.now_ms

    @property
    def orders(self) -> Sequence[Order]:
        """See Context."""
        return tuple(self._engine.risk.working.values())

    def elapsed_real_s(self, since_ms: int) -> float:
        """See Context."""
        risk = self._engine.risk
        return (risk.now_ms - since_ms) / risk.speed / 1000

    def wake_in(self, real_s: float) -> None:
        """See Context."""
        risk = self._engine.risk
        speed = risk.speed
        due = risk.now_ms + max(1, ceil(real_s * 1000 * speed))
        # A wake one rounding too early would find the time-out not over, and nobody wakes it again.
        while (due - risk.now_ms) / speed / 1000 < real_s:
            due += 1
        wakes = self._engine.state.wakes
        if due not in wakes:
            insort(wakes, due)

    def instrument(self, symbol: str) -> Instrument:
        """See Context."""
        return self._engine.risk.instruments[symbol]

    def cancel(self, order: Order) -> None:
        """See Context."""
        self._engine.cancel(order)

    def refuse(self, gate: str, numbers: dict[str, float] | None = None, symbol: str = "") -> None:
        """See Context."""
        engine = self._engine
        if not engine.is_open:
            return
        engine.desk.note_gate(symbol or next(iter(engine.risk.instruments)), gate)
        if numbers is not None:
            self.note(numbers, symbol=symbol)

    def note(self, numbers: dict[str, float] | None, why: str = "", symbol: str = "") -> None:
        """See Context."""
        engine = self._engine
        state = engine.state
        if not why and not state.undecided:
            if numbers is not None:
                state.numbers = numbers
            return
        if why:
            engine.desk.note_why(symbol or next(iter(engine.risk.instruments)), why)
        owed = next((bar for bar in state.undecided if bar.symbol == symbol), None) if symbol else None
        if owed is not None:
            owed.numbers = numbers
        elif numbers is not None:
            state.numbers = numbers

    def defer(self) -> None:
        """See Context."""
        self._engine.reasons.defer()
