"""The smallest order that rests: placed, looked at, cancelled."""

import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from qmtl.config import ConfigError, read_named
from qmtl.core.money import ceil_to_step
from qmtl.core.order import BrokerageError
from qmtl.runtime.sdk import CcxtBrokerageClient
from qmtl.runtime.sdk.background import BACKGROUND

_BELOW = Decimal("0.9")
"""A purchase this far below the market rests, and stays within every venue's price filters."""


def find_smallest(client: CcxtBrokerageClient, symbol: str) -> dict[str, Any]:
    """Return the smallest valid limit purchase of `symbol` that the market does not reach."""
    instrument, last = BACKGROUND.run(client.ask_market(symbol))
    price = instrument.floor_price(last * _BELOW)
    least = max(instrument.min_quantity, instrument.min_notional / price)
    return {
        "symbol": symbol,
        "side": "BUY",
        "type": "limit",
        "quantity": float(ceil_to_step(least, instrument.lot_size)),
        "limit_price": float(price),
        "time_in_force": "GTC",
    }


def show(names: tuple[str, str], connect: Callable[[str, str], CcxtBrokerageClient], **extra: Any) -> int:
    """Place, print and cancel with the keys in the variables `names`; return the exit status."""
    keys = read_named(*names)
    if keys is None:
        sys.stderr.write(f"error: set {' and '.join(names)} to Binance test keys\n")
        return 2
    try:
        client = connect(*keys)
        try:
            order = {**find_smallest(client, "BTC/USDT"), **extra}
            placed = client.post_order(order)
            what = f"{order['side']} {order['quantity']} {order['symbol']} at {order['limit_price']}"
            sys.stdout.write(f"create_order: {placed.id} {what} {placed['status']}\n")
            seen = client.poll_order_status({"id": placed.id, "symbol": order["symbol"]})
            sys.stdout.write(f"status: {placed.status if seen is None else seen.status}\n")
            sys.stdout.write(f"cancel_order: {client.cancel_order(placed.id).status}\n")
        finally:
            client.close()
    except (BrokerageError, ConfigError, RuntimeError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0
