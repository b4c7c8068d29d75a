"""Binance USDT-M user-data frames about the account as events.

Source: https://developers.binance.com/docs/derivatives/usds-margined-futures/user-data-streams. Every
parser takes the bare message and returns at least one message.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from qmtl.core.event import AccountUpdated, BalanceReport, Event, FundingPaid, PositionReport, Transferred
from qmtl.core.money import ZERO, dump_decimal
from qmtl.core.order import PositionSide

Body = bytes | msgspec.Raw
_HOUR_MS = 3_600_000


class Refusal(msgspec.Struct, frozen=True):
    """A message without meaning for the engine: its name and why it stops here."""

    name: str
    why: str


class MarginCalled(msgspec.Struct, frozen=True):
    """Positions are near liquidation: symbol, signed quantity, maintenance margin for each."""

    ts_ms: int
    positions: tuple[tuple[str, Decimal, Decimal], ...]


class ListenKeyExpired(msgspec.Struct, frozen=True):
    """The user stream is dead until a new listenKey is made; the key itself is not kept."""

    ts_ms: int


class AccountConfigured(msgspec.Struct, frozen=True):
    """Leverage of a symbol, or the multi-assets mode, was changed."""

    ts_ms: int
    symbol: str = ""
    leverage: int = 0
    multi_assets: bool | None = None


AccountMessage = Event | Refusal | MarginCalled | ListenKeyExpired | AccountConfigured
AccountMessages = tuple[AccountMessage, ...]


class _Balance(msgspec.Struct, rename={"asset": "a", "wallet": "wb", "change": "bc"}):
    asset: str
    wallet: Decimal
    change: Decimal = ZERO


class _Position(msgspec.Struct, rename={"symbol": "s", "quantity": "pa", "entry": "ep", "side": "ps"}):
    symbol: str
    quantity: Decimal
    entry: Decimal = ZERO
    side: PositionSide = PositionSide.BOTH


class _Account(msgspec.Struct, rename={"reason": "m", "balances": "B", "positions": "P"}):
    reason: str
    balances: list[_Balance] = []
    positions: list[_Position] = []


class _AccountUpdate(msgspec.Struct, rename={"ts_ms": "T", "account": "a"}):
    ts_ms: int
    account: _Account


class _CalledPosition(msgspec.Struct, rename={"symbol": "s", "quantity": "pa", "margin": "mm"}):
    symbol: str
    quantity: Decimal
    margin: Decimal = ZERO


class _MarginCall(msgspec.Struct, rename={"ts_ms": "E", "positions": "p"}):
    ts_ms: int
    positions: list[_CalledPosition] = []


class _Leverage(msgspec.Struct, rename={"symbol": "s", "leverage": "l"}):
    symbol: str
    leverage: int


class _MultiAssets(msgspec.Struct, rename={"is_on": "j"}):
    is_on: bool


class _AccountConfig(msgspec.Struct, rename={"ts_ms": "E", "leverage": "ac", "assets": "ai"}):
    ts_ms: int
    leverage: _Leverage | None = None
    assets: _MultiAssets | None = None


class _Stamped(msgspec.Struct, rename={"ts_ms": "E"}):
    ts_ms: int


def _decoder(kind: type) -> Callable[[Body], Any]:
    return msgspec.json.Decoder(kind, strict=False).decode


_decode_account, _decode_margin = _decoder(_AccountUpdate), _decoder(_MarginCall)
_decode_config, _decode_stamp = _decoder(_AccountConfig), _decoder(_Stamped)


def parse_account_update(body: Body) -> AccountMessages:
    """Return funding or transfers that caused an ACCOUNT_UPDATE, then the account as the venue states it."""
    m: _AccountUpdate = _decode_account(body)
    a = m.account
    symbols = {p.symbol for p in a.positions}
    symbol = symbols.pop() if len(symbols) == 1 else ""
    causes = [
        cause
        for b in a.balances
        if (cause := make_cause(a.reason, m.ts_ms, b.asset, b.change, symbol)) is not None
    ]
    stated = AccountUpdated(
        m.ts_ms,
        a.reason,
        tuple(BalanceReport(b.asset, b.wallet, b.change) for b in a.balances),
        tuple(PositionReport(p.symbol, p.quantity, p.entry, p.side) for p in a.positions),
    )
    return (*causes, stated)


# Profit and commission come with fills; moving margin between wallets of one account moves no money.
_NO_CAUSE = frozenset({"ORDER", "MARGIN_TRANSFER", "MARGIN_TYPE_CHANGE"})


def make_cause(
    reason: str, ts_ms: int, asset: str, change: Decimal, symbol: str
) -> FundingPaid | Transferred | None:
    """Return the event behind a balance change, None when fills explain it.

    The id is the same whether the stream or the income history tells it, so that it is booked once:
    funding settles on the hour, its stamp may lag by some milliseconds.
    """
    if not change or reason in _NO_CAUSE:
        return None
    amount = dump_decimal(change)
    if reason == "FUNDING_FEE":
        return FundingPaid(ts_ms, symbol, change, f"{ts_ms // _HOUR_MS}:{asset}:{amount}")
    return Transferred(ts_ms, asset, change, f"{ts_ms // 1000}:{asset}:{amount}")


def _parse_margin_call(body: Body) -> AccountMessages:
    m: _MarginCall = _decode_margin(body)
    return (MarginCalled(m.ts_ms, tuple((p.symbol, p.quantity, p.margin) for p in m.positions)),)


def _parse_listen_key_expired(body: Body) -> AccountMessages:
    stamp: _Stamped = _decode_stamp(body)
    return (ListenKeyExpired(stamp.ts_ms),)


def _parse_account_config(body: Body) -> AccountMessages:
    m: _AccountConfig = _decode_config(body)
    symbol, leverage = (m.leverage.symbol, m.leverage.leverage) if m.leverage else ("", 0)
    return (AccountConfigured(m.ts_ms, symbol, leverage, m.assets.is_on if m.assets else None),)


ACCOUNT_PARSERS: dict[bytes, Callable[[Body], AccountMessages]] = {
    b"ACCOUNT_UPDATE": parse_account_update,
    b"MARGIN_CALL": _parse_margin_call,
    b"listenKeyExpired": _parse_listen_key_expired,
    b"ACCOUNT_CONFIG_UPDATE": _parse_account_config,
}
