"""A grid: buy lower and lower, sell each a step higher."""

from typing import Any

from qmtl.runtime.sdk import Param, Strategy


class Grid(Strategy):
    """Keep one bid a step below the price, `levels` deep; each fill rests a step above to be sold again.

    Below the lowest level the whole position is given up.
    """

    interval = "1m"
    step = Param(0.002, low=0.001, high=0.01, step=0.001)
    levels = Param(5, low=1, high=10, step=1)
    notional = Param(200.0)
    ruin = Param(0.03)

    def on_bar(self, ctx: Any, bar: Any) -> None:
        """Give up far below the entry, else have one bid rest."""
        if ctx.position and bar.close < ctx.entry_price() * (1 - self.ruin):
            ctx.cancel()
            ctx.close(why="ruin")
            return
        bids = [order for order in ctx.orders if order.side == "BUY"]
        asks = len(ctx.orders) - len(bids)
        lowest = min((order.limit for order in ctx.orders if order.side == "SELL"), default=None)
        price = bar.close if lowest is None else min(bar.close, lowest / (1 + self.step))
        wanted = price * (1 - self.step)
        for order in bids:
            if abs(order.limit / wanted - 1) > self.step / 2:
                ctx.cancel(order)
        if not bids and asks < self.levels:
            ctx.buy(notional=self.notional, limit=wanted, post_only=True, why="grid")

    def on_fill(self, ctx: Any, fill: Any) -> None:
        """Offer what was bought a step higher."""
        if fill.side == "BUY":
            ctx.sell(fill.quantity, limit=fill.price * (1 + self.step), reduce_only=True, why="grid")
