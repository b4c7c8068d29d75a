"""What to do about the booleans: the published trader's rules, as orders to send."""

from collections.abc import Mapping
from decimal import Decimal
from math import inf
from typing import Any, Literal

import msgspec

from qmtl.core.money import ONE, ZERO, ceil_to_step, floor_to_step
from qmtl.core.order import OrderIntent, OrderType, Role, Side, TimeInForce
from qmtl.trader.conditional import Levels

Price = float | Decimal


class DecisionParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every constant of the trader, with the published values.

    `window`, `inner`, `outer` shape the bands, `rv_window`, `rv_horizon` the volatility gate; `stop`,
    `target`, `offset` are fractions of the price; `cooldown_s` counts exchange seconds, the time-outs real
    seconds. An entry takes `notional` (quote units) or `size_pct` (a fraction of equity) where given, else
    `quantity` (base units).
    """

    symbol: str = "BTCUSDT"
    interval: str = "1m"
    window: int = 20
    inner: float = 1.0
    outer: float = 2.0
    rv_window: int = 10
    rv_horizon: int = 20
    stop: Decimal = Decimal("0.0011")
    target: Decimal = Decimal("0.0016")
    offset: Decimal = Decimal("0.0001")
    cooldown_s: float = 300.0
    entry_timeout_s: float = 30.0
    exit_timeout_s: float = 5.0
    order_type: Literal["LIMIT", "IOC", "MARKET"] = "LIMIT"
    has_volatility_gate: bool = True
    quantity: Decimal = Decimal("0.01")
    notional: Decimal | None = None
    size_pct: Decimal | None = None
    tick_size: Decimal = Decimal("0.1")


class Decision:
    """The rules of entry, exit and restraint; holds no state, so a call repeats exactly."""

    def __init__(self, params: DecisionParams | None = None) -> None:
        self.params = params or DecisionParams()

    def trade(self, currentPrice: Price, **conditions: Any) -> tuple[OrderIntent, ...]:
        """Return the orders to send at `currentPrice`: one entry, one exit, or none.

        `conditions` are the outputs of BBConditional and RVConditional, and the truth of fills and
        account: `positionAmt` (signed base units), `entryPrice`, `hasOpenOrder`, `sinceTrade_s`
        (exchange seconds since the last trade, None before the first), `amount` (base units of an
        entry), `startTime` (of the forming candle). What is not given is flat, no open order, no trade yet.
        """
        held = _decimal(conditions.get("positionAmt", ZERO))
        bar_ms = conditions.get("startTime", 0)
        if held:
            entry = _decimal(conditions["entryPrice"])
            why = self.find_exit(currentPrice, held, entry, conditions)
            return (self.leave(currentPrice, held, why, bar_ms=bar_ms),) if why else ()
        side = self.find_entry(conditions)
        if side is None or self.find_gate(conditions):
            return ()
        amount = _decimal(conditions.get("amount", self.params.quantity))
        return (self.trade_limit(side, currentPrice, amount, bar_ms=bar_ms),)

    def find_entry(self, conditions: Mapping[str, Any]) -> Side | None:
        """Return the side of a fresh break out of the inner bands, None without one."""
        for side, past, now in (
            (Side.BUY, "PASTcloses_gt_upperInter_5t", "CURRclose_gt_upperInter"),
            (Side.SELL, "PASTcloses_lt_lowerInter_5t", "CURRclose_lt_lowerInter"),
        ):
            if conditions[now] and not (conditions[past][-1] or conditions[past][-2]):
                return side
        return None

    def find_gate(self, conditions: Mapping[str, Any]) -> str:
        """Return what holds an entry back (open_order, cooldown, volatility), or nothing."""
        if conditions.get("hasOpenOrder", False):
            return "open_order"
        since = conditions.get("sinceTrade_s")
        if since is not None and since < self.params.cooldown_s:
            return "cooldown"
        if self.params.has_volatility_gate:
            highest = conditions.get("maxRV", 0.0)
            # Before volatility is known its numbers are 0: no entry.
            if not (highest and conditions["minRV"] <= conditions["currentRV"] <= highest):
                return "volatility"
        return ""

    def find_exit(self, price: Price, held: Decimal, entry: Decimal, conditions: Mapping[str, Any]) -> str:
        """Return why a position must be left (stop, target, re-entry), or nothing."""
        now = _decimal(price)
        stop, target = self.bounds(held, entry)
        if held > 0:
            is_stopped, is_done = now <= stop, now >= target
            past, beyond = "PASTcloses_gt_upperBand_5t", "CURRclose_gt_upperBand"
        else:
            is_stopped, is_done = now >= stop, now <= target
            past, beyond = "PASTcloses_lt_lowerBand_5t", "CURRclose_lt_lowerBand"
        if is_stopped:
            return "stop"
        if is_done:
            return "target"
        return "re-entry" if conditions[past][-1] and not conditions[beyond] else ""

    def leave(
        self, price: Price, held: Decimal, why: str, *, is_urgent: bool = False, bar_ms: int = 0
    ) -> OrderIntent:
        """Return the reduce-only order that closes exactly `held`; urgent means MARKET."""
        side = Side.SELL if held > 0 else Side.BUY
        if is_urgent:
            return self._market(side, abs(held), Role.EXIT, why, bar_ms)
        return self.trade_limit(side, price, abs(held), role=Role.EXIT, why=why, bar_ms=bar_ms)

    def trade_limit(
        self,
        side: str,
        price: Price,
        amount: Price,
        *,
        role: Role = Role.ENTRY,
        why: str = "",
        bar_ms: int = 0,
    ) -> OrderIntent:
        """Return an order for `amount` base units that crosses the market at `price` by the offset.

        Exits are reduce-only. With order type MARKET the price only says why.
        """
        side, quantity = Side(side), _decimal(amount)
        why = why or ("above upper band" if side is Side.BUY else "below lower band")
        if quantity <= 0:
            raise ValueError(f"amount: expected more than 0, got {amount}")
        kind = self.params.order_type
        if kind == "MARKET":
            return self._market(side, quantity, role, why, bar_ms)
        return OrderIntent(
            symbol=self.params.symbol,
            side=side,
            quantity=quantity,
            type=OrderType.LIMIT,
            limit_price=self._through(side, _decimal(price)),
            time_in_force=TimeInForce.IOC if kind == "IOC" else TimeInForce.GTC,
            reduce_only=role is not Role.ENTRY,
            role=role,
            bar_ms=bar_ms,
            why=why,
        )

    def bounds(self, held: Decimal, entry: Decimal) -> tuple[Decimal, Decimal]:
        """Return the prices of stop and target of a position of `held` signed base units."""
        params = self.params
        if held > 0:
            return entry * (ONE - params.stop), entry * (ONE + params.target)
        return entry * (ONE + params.stop), entry * (ONE - params.target)

    def _through(self, side: Side, price: Decimal) -> Decimal:
        """The offset price on the passive tick, but never short of the price it must cross."""
        tick, offset = self.params.tick_size, self.params.offset
        if side is Side.BUY:
            return max(floor_to_step(price * (ONE + offset), tick), ceil_to_step(price, tick))
        crossing = min(ceil_to_step(price * (ONE - offset), tick), floor_to_step(price, tick))
        return max(crossing, tick)

    def _market(self, side: Side, quantity: Decimal, role: Role, why: str, bar_ms: int) -> OrderIntent:
        return OrderIntent(
            symbol=self.params.symbol,
            side=side,
            quantity=quantity,
            reduce_only=role is not Role.ENTRY,
            role=role,
            bar_ms=bar_ms,
            why=why,
        )


def _decimal(number: Any) -> Decimal:
    return number if isinstance(number, Decimal) else Decimal(str(number))


def quiet_range(
    direction: int, bounds: tuple[float, float], levels: Levels, before: Levels
) -> tuple[float, float]:
    """Return (low, high): at a price strictly between, `trade` returns nothing whatever the gates.

    `direction` is the sign of the position, `bounds` its stop and target, `levels` and `before` are those of
    the last two closed candles. It spares the rules at most updates. Rounding to float keeps the order
    of numbers, so a price on a bound is never between.
    """
    close, upper_inner, upper, lower_inner, lower = levels
    if not direction:
        if not upper_inner:
            return -inf, inf
        high = inf if close > upper_inner or before[0] > before[1] else upper_inner
        return (-inf if close < lower_inner or before[0] < before[3] else lower_inner), high
    stop, target = bounds
    if direction > 0:
        return (upper if close > upper > stop else stop), target
    return target, (lower if close < lower < stop else stop)
