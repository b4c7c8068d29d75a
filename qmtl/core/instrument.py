"""Instruments: names of one market and the steps its venue accepts."""

import re
from decimal import Decimal
from math import ceil, log10

import msgspec

from qmtl.core.money import ZERO, ceil_to_step, dump_decimal, floor_to_step

_QUOTES = ("USDT", "USDC", "FDUSD", "BUSD", "BTC", "ETH", "BNB", "USD")
_UNIFIED = re.compile(r"^([A-Z0-9]{1,20})/([A-Z0-9]{2,10})(?::([A-Z0-9]{2,10}))?$")


class Instrument(msgspec.Struct, frozen=True):
    """One market: its names, price and quantity steps, minimum sizes and margin rate.

    Quantities are base units, prices quote units per base unit. `maintenance_rate` is the share of
    notional that must stay as margin in the first bracket.
    """

    symbol: str
    base: str
    quote: str
    settle: str
    tick_size: Decimal
    lot_size: Decimal
    min_quantity: Decimal
    max_quantity: Decimal
    market_max_quantity: Decimal
    min_notional: Decimal
    maintenance_rate: Decimal = Decimal("0.004")

    @property
    def canonical(self) -> str:
        """The unified name: `BTC/USDT:USDT` for a linear contract, `BTC/USDT` for spot."""
        pair = f"{self.base}/{self.quote}"
        return f"{pair}:{self.settle}" if self.settle else pair

    def floor_price(self, price: Decimal) -> Decimal:
        """Round down to the tick."""
        return floor_to_step(price, self.tick_size)

    def ceil_price(self, price: Decimal) -> Decimal:
        """Round up to the tick."""
        return ceil_to_step(price, self.tick_size)

    def floor_quantity(self, quantity: Decimal) -> Decimal:
        """Round down to the lot; below the minimum it is zero."""
        lots = floor_to_step(quantity, self.lot_size)
        return lots if lots >= self.min_quantity else ZERO


def parse_symbol(text: str) -> str:
    """Return the exchange symbol (`BTCUSDT`) of any accepted spelling.

    Accepts `BTCUSDT`, `BTC/USDT` and `BTC/USDT:USDT` in any case; ValueError names anything else.
    """
    upper = text.strip().upper()
    unified = _UNIFIED.match(upper)
    if unified:
        return unified[1] + unified[2]
    if not re.fullmatch(r"[A-Z0-9]{5,30}", upper):
        message = f"symbol {text!r} is not known; write BTCUSDT, BTC/USDT or BTC/USDT:USDT"
        raise ValueError(message)
    return upper


def split_symbol(symbol: str) -> tuple[str, str]:
    """Split an exchange symbol into base and quote: `BTCUSDT` -> (`BTC`, `USDT`)."""
    for quote in _QUOTES:
        if symbol.endswith(quote) and len(symbol) > len(quote):
            return symbol[: -len(quote)], quote
    message = f"symbol {symbol!r} ends with no known quote currency ({', '.join(_QUOTES)})"
    raise ValueError(message)


def unify_symbol(text: str, *, is_linear: bool) -> str:
    """Return the unified symbol of any accepted spelling: `BTC/USDT`, on a linear venue `BTC/USDT:USDT`.

    Other unified symbols (`BTC/USDT:USDT-261225`) stay as they are; ValueError names anything else.
    """
    unified = _UNIFIED.match(text.strip().upper())
    if unified is None and "/" in text:
        return text.strip()
    base, quote = (unified[1], unified[2]) if unified else split_symbol(parse_symbol(text))
    settle = (unified[3] if unified else None) or (quote if is_linear else None)
    return f"{base}/{quote}:{settle}" if settle else f"{base}/{quote}"


_PUBLISHED: dict[str, tuple[str, str, str, str, str]] = {
    # tick, lot, max quantity, max quantity of a market order, minimum notional
    "BTCUSDT": ("0.10", "0.001", "1000", "120", "100"),
    "ETHUSDT": ("0.01", "0.001", "10000", "2000", "20"),
}


_ENOUGH = 1_000_000
"""Quote units: a limit that is only assumed must not refuse what an ordinary account trades."""


def list_instrument(
    symbol: str,
    price_decimals: int,
    volume_decimals: int,
    *,
    lowest: float = 10.0,
    min_notional: Decimal | None = None,
) -> Instrument:
    """Return the contract of `symbol` where no venue is asked.

    Steps and limits of BTCUSDT and ETHUSDT are those the venue published; other symbols take their steps from
    the decimals of their candles, and at least the base units worth a million at their `lowest` price.
    """
    base, quote = split_symbol(symbol)
    # A power of ten: another stretch of the same market is the same contract.
    units = 10 ** max(5, ceil(log10(_ENOUGH / lowest)))
    default = (_step(price_decimals), _step(volume_decimals), str(max(1_000_000, units)), str(units), "5")
    tick, lot, most, market_most, notional = _PUBLISHED.get(symbol, default)
    return Instrument(
        symbol=symbol,
        base=base,
        quote=quote,
        settle=quote,
        tick_size=Decimal(tick),
        lot_size=Decimal(lot),
        min_quantity=Decimal(lot),
        max_quantity=Decimal(most),
        market_max_quantity=Decimal(market_most),
        min_notional=Decimal(notional) if min_notional is None else min_notional,
    )


def _step(decimals: int) -> str:
    return dump_decimal(Decimal(1).scaleb(-decimals))
