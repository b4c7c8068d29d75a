"""The one recorded reason of every closed bar: the first that applies."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qmtl.core.event import BarClosed, DecisionMade
from qmtl.core.reason import Reason, TradingState
from qmtl.engine.quiet_bars import Numbers, QuietBars
from qmtl.engine.state import ENTERED, EXITED, Undecided

if TYPE_CHECKING:
    from qmtl.engine.engine import Engine

# Reading a member from its enum costs a lookup per bar; these are read once.
_ENTERED, _EXITED, _REFUSED = Reason.ENTERED, Reason.EXITED, Reason.REFUSED
_HOLDING, _NOT_TRADING, _REFILLED = Reason.HOLDING, Reason.NOT_TRADING, Reason.REFILLED
_WARMING_UP, _NO_SIGNAL = Reason.WARMING_UP, Reason.NO_SIGNAL
_ACTIVE = TradingState.ACTIVE


class BarReasons:
    """Tells why each bar ended as it did, at once or when the strategy has seen the other symbols' bars."""

    def __init__(self, engine: "Engine") -> None:
        """Serve `engine`."""
        self._engine = engine
        self._state = engine.state
        self._risk = engine.risk
        self._positions = engine.account.positions
        self._defers = False

    def defer(self) -> None:
        """Owe the reason of the bar being processed; see Context."""
        self._defers = True

    def take(self, bar: BarClosed, *, is_warm: bool) -> None:
        """Record the reason of a bar the strategy has seen, and those that were owed before it."""
        state = self._state
        numbers, state.numbers = state.numbers, None
        symbol = bar.symbol
        if self._defers:
            self._defers = False
            state.undecided.append(Undecided(bar.ts_ms, symbol, bar.open_ms, is_warm, numbers))
            return
        if state.undecided:
            self.settle()
        why = ""
        if state.notes:
            reason, gate, why = self._find_reason(symbol, bar, is_warm=is_warm)
        else:
            # By far the most bars: nothing was done.
            reason, gate = self._find_standing(symbol, bar, is_warm=is_warm)
        self._engine.record(DecisionMade(bar.ts_ms, symbol, bar.open_ms, reason, gate, numbers, why))

    def take_quiet(self, bars: Sequence[BarClosed], numbers: Numbers) -> None:
        """Record bars of one symbol and their one reason: nothing was done, by a strategy that is warm."""
        reason, gate = self._find_standing(bars[0].symbol, bars[0], is_warm=True)
        self._engine.journal.extend(QuietBars(bars, reason, gate, numbers))

    def settle(self) -> None:
        """Record the reasons that are owed, unless the strategy goes on waiting."""
        if self._defers:
            self._defers = False
            return
        owed = self._state.undecided
        if owed:
            self._state.undecided = []
            for bar in owed:
                reason, gate, why = self._find_reason(bar.symbol, None, is_warm=bar.is_warm)
                self._engine.record(
                    DecisionMade(bar.ts_ms, bar.symbol, bar.open_ms, reason, gate, bar.numbers, why)
                )

    def _find_reason(self, symbol: str, bar: BarClosed | None, *, is_warm: bool) -> tuple[Reason, str, str]:
        """Return the reason of a bar, the gate that refused, and what the strategy wrote down of it."""
        notes = self._state.notes.pop(symbol, None)
        if notes is not None and notes.acted:
            acted = notes.acted
            if acted & ENTERED:
                return _ENTERED, "", notes.why
            return (_EXITED, "", notes.why) if acted & EXITED else (_REFUSED, notes.gate, notes.why)
        reason, gate = self._find_standing(symbol, bar, is_warm=is_warm)
        return reason, gate, "" if notes is None else notes.why

    def _find_standing(self, symbol: str, bar: BarClosed | None, *, is_warm: bool) -> tuple[Reason, str]:
        """Return the reason of a bar at which nothing was done, and who said so."""
        held = self._positions.get(symbol)
        if held is not None and held.quantity:
            return _HOLDING, ""
        risk = self._risk
        is_refilled = bar is not None and bar.refilled
        is_early = bar is not None and bar.warmup
        if risk.state is not _ACTIVE or (risk.entry_bans and not (is_refilled or is_early)):
            return _NOT_TRADING, risk.state_why or next(iter(risk.entry_bans), "")
        if is_refilled:
            return _REFILLED, ""
        if is_early or not is_warm:
            return _WARMING_UP, ""
        return _NO_SIGNAL, ""
