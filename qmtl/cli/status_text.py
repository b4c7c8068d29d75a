"""A trader's status and news as lines for people."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

_SIDES = {"BUY": "LONG", "SELL": "SHORT"}


def dump_status(status: Mapping[str, Any]) -> str:
    """Return the status as a short page of text."""
    asset = status.get("asset", "")
    ready = "ready" if status.get("is_ready") else "NOT READY"
    who = " · ".join(str(status.get(key)) for key in ("account", "domain", "state"))
    loss = f"drawdown {float(status.get('drawdown') or 0):.2%}"
    cash = f"equity {money(status.get('equity'))} {asset} · day {signed(status.get('day_pnl'))}"
    lines = [f"{who} · {ready}", f"{cash} · fees {money(status.get('fees'))} · {loss}"]
    if status.get("state") != "ACTIVE":
        lines.append(
            f"{status.get('state')}: {status.get('state_why') or '-'} (by {status.get('state_who') or '-'})"
        )
    lines += [f"not ready: {reason}" for reason in status.get("not_ready") or ()]
    lines += [dump_position(held) for held in status.get("positions") or ()] or ["position 0"]
    lines += [dump_order(order) for order in status.get("orders") or ()]
    lines.append(f"unsettled {status.get('unsettled', 0)} · {dump_streams(status)}")
    decision = status.get("last_decision")
    if decision:
        lines.append(f"last bar {dump_decision(decision)}")
    counts = dict(status.get("counts") or {})
    reasons = ", ".join(
        f"{count} {reason.replace('_', ' ')}" for reason, count in dict(status.get("reasons") or {}).items()
    )
    lines.append(f"{counts.get('decisions', 0)} closed bars: {reasons or '-'}")
    limits = {name: value for name, value in dict(status.get("limits") or {}).items() if value is not None}
    lines.append("limits " + (", ".join(f"{name} {value}" for name, value in limits.items()) or "none"))
    lines.append(f"journal {status.get('journal')}")
    return "\n".join(lines)


def dump_position(held: Mapping[str, Any]) -> str:
    """Return one position: size, entry, profit, stop at the venue."""
    quantity = Decimal(str(held["quantity"]))
    direction = "LONG" if quantity > 0 else "SHORT"
    stop = (
        f"stop@venue {price(held['stop'])}"
        if held.get("stop")
        else f"NO STOP {held.get('unprotected_s', 0):.0f} s"
    )
    drift = f" · VENUE SAYS {held['venue_quantity']}" if held.get("venue_quantity") is not None else ""
    return (
        f"position {direction} {abs(quantity)} {held['symbol']} @ {price(held['entry_price'])}"
        f" · mark {price(held['mark'])} · {signed(held['unrealized'])} · {stop}{drift}"
    )


def dump_order(order: Mapping[str, Any]) -> str:
    """Return one working order."""
    at = order.get("limit_price") or order.get("stop_price")
    where = f" @ {price(at)}" if at else ""
    return (
        f"order {order['role']} {order['side']} {order['quantity']} {order['symbol']} {order['type']}{where}"
        f" · {order['status']} · filled {order['filled']} · {order['client_order_id']}"
    )


def dump_streams(status: Mapping[str, Any]) -> str:
    """Return how fresh the streams are and how far the clock is off."""
    stale = [name for name, feed in dict(status.get("feeds") or {}).items() if not feed.get("is_fresh")]
    offset = status.get("clock_offset_ms")
    clock = "" if offset is None else f" · clock {float(offset):+.0f} ms"
    return ("stale: " + ", ".join(stale) if stale else "streams fresh") + clock


def dump_decision(decision: Mapping[str, Any]) -> str:
    """Return the one reason of a closed bar, with the numbers that were compared."""
    numbers = dict(decision.get("numbers") or {})
    reason, gate = str(decision["reason"]), str(decision.get("gate") or "")
    return f"{clock(decision['ts_ms'])} {explain(reason, gate, numbers)}"


def explain(reason: str, gate: str, numbers: Mapping[str, float]) -> str:
    """Return why a closed bar ended as it did, in words."""
    if reason == "no_signal" and "close" in numbers and "upperInter" not in numbers:
        return _explain_lines(numbers)
    if reason == "no_signal" and "close" in numbers:
        close, upper, lower = (numbers.get(key, 0.0) for key in ("close", "upperInter", "lowerInter"))
        now = level(close)
        far = f"{abs(numbers.get('distance', 0.0)) * 100:.2f} % away"
        if lower <= close <= upper:
            nearer = (
                f"≤ upper {level(upper)}" if upper - close <= close - lower else f"≥ lower {level(lower)}"
            )
            return f"no entry: close {now} {nearer} ({far})"
        beyond = f"> upper {level(upper)}" if close > upper else f"< lower {level(lower)}"
        return f"no entry: close {now} {beyond}, not a fresh break"
    words = {
        "entered": "entered",
        "exited": "exited",
        "holding": "holding",
        "refilled": "no entry: the bar came by refill",
        "warming_up": "warming up",
        "no_signal": "no signal",
        "not_trading": "not trading",
        "refused": "refused",
    }
    return words.get(reason, reason) + (f": {gate}" if gate else "")


def _explain_lines(numbers: Mapping[str, float]) -> str:
    """Say how the close stands to the nearest of the lines a strategy plots."""
    close = numbers["close"]
    lines = {name: value for name, value in numbers.items() if name not in {"close", "distance"}}
    if "distance" not in numbers or not lines:
        return f"no entry: close {level(close)}"
    name, line = min(lines.items(), key=lambda pair: abs(pair[1] - close))
    sign = "≤" if close <= line else "≥"
    far = f"{numbers['distance'] * 100:.2f} % away"
    return f"no entry: close {level(close)} {sign} {name} {level(line)} ({far})"


def dump_fill(fill: Mapping[str, Any], role: str, why: str) -> str:
    """Return a fill as the transcript shows it: LONG 0.010 BTCUSDT @ 60,012.3 · why: … · fee 0.24."""
    verb = (
        _SIDES.get(str(fill["side"]), str(fill["side"]))
        if role == "entry"
        else f"{role.upper()} {fill['side']}"
    )
    return (
        f"{clock(fill['ts_ms'])} {verb} {fill['quantity']} {fill['symbol']} @ {price(fill['price'])}"
        f" · why: {why or '-'} · fee {Decimal(str(fill['fee'])):.2f}"
    )


def clock(ts_ms: int) -> str:
    """Return the UTC time of day of an exchange time."""
    return datetime.fromtimestamp(ts_ms / 1000, UTC).strftime("%H:%M:%S")


def price(value: Any) -> str:
    """Return a price with thousands separated, its own decimals kept, at most four."""
    number = Decimal(str(value or 0))
    digits = min(4, max(1, -int(number.normalize().as_tuple().exponent))) if number % 1 else 1
    return f"{number:,.{digits}f}"


def level(value: float) -> str:
    """Return a computed price, such as a band, with as many decimals as tell two of them apart."""
    return f"{value:,.1f}" if abs(value) >= 1_000 else f"{value:,.4f}"


def money(value: Any) -> str:
    """Return an amount with two decimals and thousands separated."""
    return f"{Decimal(str(value or 0)):,.2f}"


def signed(value: Any) -> str:
    """Return an amount with its sign."""
    return f"{Decimal(str(value or 0)):+,.2f}"
