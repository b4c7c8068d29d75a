"""Balances and positions as the account routes print them."""

from decimal import Decimal
from typing import Any

from qmtl.core.money import ZERO
from qmtl.core.order import PositionSide
from qmtl.core.position import Position
from qmtl.services.paper_exchange.accounts import PaperAccount
from qmtl.services.paper_exchange.records import text

_STEP = Decimal("1E-8")


def fixed(value: Decimal) -> str:
    """Print money with the eight decimals the account routes use."""
    return format(value.quantize(_STEP), "f")


def list_positions(account: PaperAccount, symbols: list[str]) -> list[Position]:
    """Return the positions of `symbols`, flat ones included, for the account's position mode."""
    core = account.core
    sides = (PositionSide.LONG, PositionSide.SHORT) if core.is_hedged else (PositionSide.BOTH,)
    held = {(p.symbol, p.side): p for p in core.account.positions.values()}
    return [held.get((symbol, side)) or Position(symbol, side) for symbol in symbols for side in sides]


class _Totals:
    """The sums both the account and the balance route state."""

    def __init__(self, account: PaperAccount) -> None:
        margin = account.core.margin
        positions = margin.open_positions()
        self.wallet = account.core.account.wallet
        self.profit = sum((margin.unrealized(p) for p in positions), ZERO)
        self.maintenance = sum((margin.maintenance(p) for p in positions), ZERO)
        self.initial = sum((margin.initial(p) for p in positions), ZERO)
        isolated = [p for p in positions if margin.modes[p.symbol] == "isolated"]
        self.cross_wallet = self.wallet - sum((margin.initial(p) for p in isolated), ZERO)
        self.cross_profit = self.profit - sum((margin.unrealized(p) for p in isolated), ZERO)
        self.available = max(account.core.available(), ZERO)
        self.orders = max(margin.available() - account.core.available(), ZERO)


def dump_balance(account: PaperAccount) -> dict[str, Any]:
    """Return the settle currency as the balance route lists it."""
    totals = _Totals(account)
    return {
        "accountAlias": account.key[:8],
        "asset": account.asset,
        "balance": fixed(totals.wallet),
        "crossWalletBalance": fixed(totals.cross_wallet),
        "crossUnPnl": fixed(totals.cross_profit),
        "availableBalance": fixed(totals.available),
        "maxWithdrawAmount": fixed(totals.available),
        "marginAvailable": True,
        "updateTime": account.update_ms,
    }


def dump_account(account: PaperAccount, symbols: list[str] | None) -> dict[str, Any]:
    """Return the account route's body; positions of `symbols`, or (None) of those that hold something."""
    totals = _Totals(account)
    sums = {
        "totalInitialMargin": totals.initial + totals.orders,
        "totalMaintMargin": totals.maintenance,
        "totalWalletBalance": totals.wallet,
        "totalUnrealizedProfit": totals.profit,
        "totalMarginBalance": totals.wallet + totals.profit,
        "totalPositionInitialMargin": totals.initial,
        "totalOpenOrderInitialMargin": totals.orders,
        "totalCrossWalletBalance": totals.cross_wallet,
        "totalCrossUnPnl": totals.cross_profit,
        "availableBalance": totals.available,
        "maxWithdrawAmount": totals.available,
    }
    asset = {
        "walletBalance": totals.wallet,
        "unrealizedProfit": totals.profit,
        "marginBalance": totals.wallet + totals.profit,
        "maintMargin": totals.maintenance,
        "initialMargin": totals.initial + totals.orders,
        "positionInitialMargin": totals.initial,
        "openOrderInitialMargin": totals.orders,
        "crossWalletBalance": totals.cross_wallet,
        "crossUnPnl": totals.cross_profit,
        "availableBalance": totals.available,
        "maxWithdrawAmount": totals.available,
    }
    margin = account.core.margin
    positions = margin.open_positions() if symbols is None else list_positions(account, symbols)
    return {
        "feeTier": 0,
        "canTrade": True,
        "canDeposit": True,
        "canWithdraw": True,
        "updateTime": account.update_ms,
        "multiAssetsMargin": account.is_multi_assets,
        "tradeGroupId": -1,
        **{name: fixed(value) for name, value in sums.items()},
        "assets": [
            {
                "asset": account.asset,
                **{name: fixed(value) for name, value in asset.items()},
                "marginAvailable": True,
                "updateTime": account.update_ms,
            }
        ],
        "positions": [_dump_position(account, position) for position in positions],
    }


def _dump_position(account: PaperAccount, position: Position) -> dict[str, Any]:
    margin = account.core.margin
    symbol = position.symbol
    is_isolated = margin.modes[symbol] == "isolated"
    initial = margin.initial(position) if position.quantity else ZERO
    profit = margin.unrealized(position) if position.quantity else ZERO
    wallet = initial if is_isolated else ZERO
    return {
        "symbol": symbol,
        "initialMargin": fixed(initial),
        "maintMargin": fixed(margin.maintenance(position) if position.quantity else ZERO),
        "unrealizedProfit": fixed(profit),
        "positionInitialMargin": fixed(initial),
        "openOrderInitialMargin": "0",
        "leverage": str(margin.leverages[symbol]),
        "isolated": is_isolated,
        "entryPrice": text(_entry(position)),
        "breakEvenPrice": text(_entry(position)),
        "maxNotional": text(margin.caps[symbol]),
        "bidNotional": "0",
        "askNotional": "0",
        "positionSide": position.side.value,
        "positionAmt": text(position.quantity),
        "notional": fixed(_notional(account, position)),
        "isolatedWallet": fixed(wallet),
        "isolatedMargin": fixed(wallet + profit if is_isolated else ZERO),
        "updateTime": account.update_ms if position.quantity else 0,
    }


def _entry(position: Position) -> Decimal:
    return position.entry_price.quantize(_STEP) if position.quantity else ZERO


def _notional(account: PaperAccount, position: Position) -> Decimal:
    if not position.quantity:
        return ZERO
    value = account.core.margin.notional(position)
    return value if position.quantity > 0 else -value


def _dump_risk(account: PaperAccount, position: Position) -> dict[str, Any]:
    core = account.core
    margin = core.margin
    is_isolated = margin.modes[position.symbol] == "isolated"
    mark = core.book(position.symbol).mark_price() or ZERO
    price = margin.find_liquidation_price(position) if position.quantity else None
    initial = margin.initial(position) if position.quantity else ZERO
    profit = margin.unrealized(position) if position.quantity else ZERO
    return {
        "symbol": position.symbol,
        "positionSide": position.side.value,
        "positionAmt": text(position.quantity),
        "entryPrice": text(_entry(position)),
        "breakEvenPrice": text(_entry(position)),
        "markPrice": fixed(mark),
        "unRealizedProfit": fixed(profit),
        "liquidationPrice": text(price.quantize(_STEP) if price is not None else None),
        "isolatedMargin": fixed(initial + profit if is_isolated else ZERO),
        "isolatedWallet": fixed(initial if is_isolated else ZERO),
        "notional": fixed(_notional(account, position)),
        "updateTime": account.update_ms if position.quantity else 0,
    }


def dump_risk_v2(account: PaperAccount, position: Position) -> dict[str, Any]:
    """Return a position as /fapi/v2/positionRisk lists it."""
    margin = account.core.margin
    symbol = position.symbol
    return _dump_risk(account, position) | {
        "leverage": str(margin.leverages[symbol]),
        "maxNotionalValue": text(margin.caps[symbol]),
        "marginType": "isolated" if margin.modes[symbol] == "isolated" else "cross",
        "isAutoAddMargin": "false",
    }


def dump_risk_v3(account: PaperAccount, position: Position) -> dict[str, Any]:
    """Return a position as /fapi/v3/positionRisk lists it."""
    margin = account.core.margin
    initial = fixed(margin.initial(position) if position.quantity else ZERO)
    return _dump_risk(account, position) | {
        "marginAsset": account.asset,
        "initialMargin": initial,
        "maintMargin": fixed(margin.maintenance(position) if position.quantity else ZERO),
        "positionInitialMargin": initial,
        "openOrderInitialMargin": "0",
        "adl": 0,
        "bidNotional": "0",
        "askNotional": "0",
    }
