"""Hold the side that funding pays."""

from typing import Any

from qmtl.runtime.sdk import Param, Strategy

FUNDING_MS = 8 * 3_600_000


class FundingCarry(Strategy):
    """Stay in the market on the side that was paid; change sides when it paid `patience` times in a row.

    What it knows of the rates is what its own account was paid, so research and live know the same.
    """

    interval = "1m"
    patience = Param(3, low=1, high=9, step=2)

    def on_bar(self, ctx: Any, bar: Any) -> None:
        """Look once after each funding time, when it is booked."""
        state = ctx.state
        slot = bar.open_ms // FUNDING_MS
        if state.get("slot") == slot or bar.open_ms % FUNDING_MS < 5 * 60_000:
            return
        state["slot"] = slot
        paid, state["funding"] = ctx.funding - state.get("funding", 0.0), ctx.funding
        side = state.setdefault("side", "SELL")
        if not ctx.position:
            self.enter(ctx, side)
            return
        state["against"] = state.get("against", 0) + 1 if paid < 0 else 0
        if state["against"] >= self.patience:
            state["against"] = 0
            state["side"] = "BUY" if side == "SELL" else "SELL"
            ctx.close(why=f"paid funding {self.patience} times")

    def on_fill(self, ctx: Any, fill: Any) -> None:
        """Once flat, take the other side."""
        if not ctx.position:
            self.enter(ctx, ctx.state["side"])

    def enter(self, ctx: Any, side: str) -> None:
        """Take `side` in the configured size."""
        (ctx.buy if side == "BUY" else ctx.sell)(why=f"{side} to be paid funding")
