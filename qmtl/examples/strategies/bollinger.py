"""The published Bollinger trader as strategies: inside the bar as it trades, and in close form."""

from decimal import Decimal

from qmtl.engine.strategy import StrategyPort
from qmtl.runtime.sdk import Param, Strategy
from qmtl.runtime.sdk.trade_plan import TradePlan
from qmtl.trader.callback import Callback
from qmtl.trader.close_form import CloseForm

USUAL = Decimal("0.01")
"""Base units where the plan names no size, as the trader has it."""


class Bollinger(Strategy):
    """A fresh break out of the inner band, judged at every price; volatility gate and cool-down on."""

    interval, decide_on = "1m", "tick"
    window = Param(20, low=10, high=60, step=5)
    inner = Param(1.0, low=0.5, high=2.0, step=0.25)
    outer = Param(2.0, low=1.5, high=3.0, step=0.25)
    rv_window = Param(10)
    rv_horizon = Param(20)
    stop = Param(0.0011)
    target = Param(0.0016)
    cooldown_s = Param(300.0)
    has_volatility_gate = Param(default=True)

    def make_port(self, plan: TradePlan) -> StrategyPort:
        """Return the trader's own strategy with these parameters."""
        sizes = {"quantity": plan.quantity or USUAL, "notional": plan.notional, "size_pct": plan.size_pct}
        return Callback.from_params({**self.chosen, **sizes, **_market(plan)})


class BollingerClose(Strategy):
    """The same break on closes alone: what the benchmarks compute; no gate, no cool-down, one size."""

    interval, decide_on = "1m", "close"
    window = Param(20, low=10, high=60, step=5)
    inner = Param(1.0, low=0.5, high=2.0, step=0.25)
    outer = Param(2.0, low=1.5, high=3.0, step=0.25)
    stop = Param(0.0011)
    target = Param(0.0016)

    def make_port(self, plan: TradePlan) -> StrategyPort:
        """Return the close form with these parameters."""
        return CloseForm.from_params({**self.chosen, "quantity": plan.quantity or USUAL, **_market(plan)})


def _market(plan: TradePlan) -> dict[str, str]:
    return {"symbol": plan.markets[0], "interval": plan.interval}
