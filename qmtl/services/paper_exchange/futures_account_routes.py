"""Balances, positions and settings of the futures account, and its listenKey."""

from typing import Any

from qmtl.core.money import ZERO
from qmtl.core.order import PositionSide
from qmtl.core.position import Position
from qmtl.engine.order_filter import VenueRefusalError
from qmtl.services.paper_exchange import account_statement as statement
from qmtl.services.paper_exchange import user_stream
from qmtl.services.paper_exchange.auth import Security
from qmtl.services.paper_exchange.call import Call, Route
from qmtl.services.paper_exchange.errors import VenueError, missing
from qmtl.services.paper_exchange.listing import dump_brackets
from qmtl.services.paper_exchange.records import dump_income, text


def get_account_v2(call: Call) -> dict[str, Any]:
    """GET /fapi/v2/account: every symbol is listed."""
    return statement.dump_account(call.account, list(call.exchange.markets))


def get_account_v3(call: Call) -> dict[str, Any]:
    """GET /fapi/v3/account: only symbols with a position are listed."""
    return statement.dump_account(call.account, None)


def get_balance(call: Call) -> list[dict[str, Any]]:
    """GET /fapi/v2|v3/balance."""
    return [statement.dump_balance(call.account)]


def get_position_risk_v2(call: Call) -> list[dict[str, Any]]:
    """GET /fapi/v2/positionRisk: every symbol and side is listed."""
    symbols = [call.market().symbol] if call.params.get("symbol") else list(call.exchange.markets)
    rows = statement.list_positions(call.account, symbols)
    return [statement.dump_risk_v2(call.account, position) for position in rows]


def get_position_risk_v3(call: Call) -> list[dict[str, Any]]:
    """GET /fapi/v3/positionRisk: only positions and symbols with orders are listed."""
    account = call.account
    symbols = [call.market().symbol] if call.params.get("symbol") else list(call.exchange.markets)
    busy = {record.intent.symbol for record in account.open_orders()}
    rows = [
        position
        for position in statement.list_positions(account, symbols)
        if position.quantity or position.symbol in busy
    ]
    return [statement.dump_risk_v3(account, position) for position in rows]


def get_dual(call: Call) -> dict[str, Any]:
    """GET /fapi/v1/positionSide/dual."""
    return {"dualSidePosition": call.account.core.is_hedged}


def post_dual(call: Call) -> dict[str, Any]:
    """POST /fapi/v1/positionSide/dual."""
    call.text("dualSidePosition")
    try:
        call.account.core.set_hedge_mode(is_hedged=call.flag("dualSidePosition"))
    except VenueRefusalError as refused:
        raise VenueError.from_reason(refused.reason) from None
    return {"code": 200, "msg": "success"}


def get_multi_assets(call: Call) -> dict[str, Any]:
    """GET /fapi/v1/multiAssetsMargin."""
    return {"multiAssetsMargin": call.account.is_multi_assets}


def post_multi_assets(call: Call) -> dict[str, Any]:
    """POST /fapi/v1/multiAssetsMargin: kept and reported; there is one asset to margin with."""
    call.text("multiAssetsMargin")
    wanted = call.flag("multiAssetsMargin")
    if wanted == call.account.is_multi_assets:
        raise VenueError(-4171)
    call.account.is_multi_assets = wanted
    call.exchange.tell(call.account.key, user_stream.multi_assets_update(is_on=wanted, ts_ms=call.now_ms))
    return {"code": 200, "msg": "success"}


def post_leverage(call: Call) -> dict[str, Any]:
    """POST /fapi/v1/leverage."""
    market, leverage = call.market(), call.integer("leverage")
    if leverage is None:
        raise missing("leverage")
    core = call.account.core
    try:
        core.set_leverage(market.symbol, leverage)
    except VenueRefusalError as refused:
        raise VenueError.from_reason(refused.reason) from None
    body = user_stream.leverage_update(market.symbol, leverage, call.now_ms)
    call.exchange.tell(call.account.key, body)
    most = core.margin.caps[market.symbol]
    return {"leverage": leverage, "maxNotionalValue": text(most), "symbol": market.symbol}


def post_margin_type(call: Call) -> dict[str, Any]:
    """POST /fapi/v1/marginType."""
    market, kind = call.market(), call.text("marginType")
    if kind not in {"ISOLATED", "CROSSED"}:
        raise missing("marginType")
    try:
        call.account.core.set_margin_mode(market.symbol, "isolated" if kind == "ISOLATED" else "cross")
    except VenueRefusalError as refused:
        raise VenueError.from_reason(refused.reason) from None
    return {"code": 200, "msg": "success"}


def post_position_margin(call: Call) -> dict[str, Any]:
    """POST /fapi/v1/positionMargin: add to (type 1) or take from (2) an isolated position."""
    market, amount, kind = call.market(), call.decimal("amount"), call.integer("type")
    if amount is None or amount <= ZERO:
        raise missing("amount")
    if kind not in {1, 2}:
        raise missing("type")
    side = PositionSide.__members__.get(call.params.get("positionSide") or "BOTH")
    if side is None:
        raise missing("positionSide")
    signed = amount if kind == 1 else -amount
    try:
        call.account.core.add_margin(market.symbol, side, signed)
    except VenueRefusalError as refused:
        raise VenueError.from_reason(refused.reason) from None
    return {
        "amount": float(amount),
        "code": 200,
        "msg": "Successfully modify position margin.",
        "type": kind,
    }


def get_brackets(call: Call) -> list[dict[str, Any]]:
    """GET /fapi/v1/leverageBracket, of one symbol or all."""
    symbols = [call.market().symbol] if call.params.get("symbol") else list(call.exchange.markets)
    brackets = call.account.core.margin.brackets
    return [dump_brackets(symbol, brackets[symbol]) for symbol in symbols]


def get_income(call: Call) -> list[dict[str, Any]]:
    """GET /fapi/v1/income: wallet movements by kind and time, oldest first."""
    symbol, kind, limit = call.params.get("symbol"), call.params.get("incomeType"), call.limit(100, 1_000)
    start, end = call.integer("startTime"), call.integer("endTime")
    found = [
        income
        for income in call.account.ledger.incomes
        if symbol in {None, "", income.symbol}
        and kind in {None, "", income.kind}
        and (start is None or income.time_ms >= start)
        and (end is None or income.time_ms <= end)
    ]
    page = call.integer("page")
    if page is not None and page > 0:
        found = found[(page - 1) * limit :]
    chosen = found[:limit] if start is not None or page is not None else found[-limit:]
    return [dump_income(income) for income in chosen]


def get_commission(call: Call) -> dict[str, Any]:
    """GET /fapi/v1/commissionRate."""
    fees = call.exchange.config.fees
    return {
        "symbol": call.market().symbol,
        "makerCommissionRate": text(fees.maker),
        "takerCommissionRate": text(fees.taker),
    }


def get_account_config(call: Call) -> dict[str, Any]:
    """GET /fapi/v1/accountConfig."""
    return {
        "feeTier": 0,
        "canTrade": True,
        "canDeposit": True,
        "canWithdraw": call.exchange.config.can_withdraw,
        "dualSidePosition": call.account.core.is_hedged,
        "updateTime": 0,
        "multiAssetsMargin": call.account.is_multi_assets,
        "tradeGroupId": -1,
    }


def get_symbol_config(call: Call) -> list[dict[str, Any]]:
    """GET /fapi/v1/symbolConfig, of one symbol or all."""
    symbols = [call.market().symbol] if call.params.get("symbol") else list(call.exchange.markets)
    margin = call.account.core.margin
    return [
        {
            "symbol": symbol,
            "marginType": "ISOLATED" if margin.modes[symbol] == "isolated" else "CROSSED",
            "isAutoAddMargin": False,
            "leverage": margin.leverages[symbol],
            "maxNotionalValue": text(margin.caps[symbol]),
        }
        for symbol in symbols
    ]


def get_adl(call: Call) -> list[dict[str, Any]]:
    """GET /fapi/v1/adlQuantile: nobody is deleveraged here."""
    held: list[Position] = call.account.core.margin.open_positions()
    return [{"symbol": position.symbol, "adlQuantile": {position.side.value: 0}} for position in held]


def get_fee_burn(_call: Call) -> dict[str, Any]:
    """GET /fapi/v1/feeBurn."""
    return {"feeBurn": False}


def get_rate_limits(call: Call) -> list[dict[str, Any]]:
    """GET /fapi/v1/rateLimit/order."""
    return [row for row in call.exchange.weights.dump_limits() if row["rateLimitType"] == "ORDERS"]


def post_listen_key(call: Call) -> dict[str, Any]:
    """POST /fapi/v1/listenKey: the active one with its life renewed, or a new one."""
    return {"listenKey": call.exchange.listen_keys.open(call.account.key, call.now_ms)}


def put_listen_key(call: Call) -> dict[str, Any]:
    """PUT /fapi/v1/listenKey."""
    name = call.exchange.listen_keys.renew(call.account.key, call.now_ms)
    if name is None:
        raise VenueError(-1125)
    return {"listenKey": name}


def delete_listen_key(call: Call) -> dict[str, Any]:
    """DELETE /fapi/v1/listenKey."""
    name = call.exchange.listen_keys.close(call.account.key)
    if name is None:
        raise VenueError(-1125)
    call.exchange.hub.forget_key(name)
    return {}


def get_restrictions(call: Call) -> dict[str, Any]:
    """GET /sapi/v1/account/apiRestrictions."""
    return {
        "ipRestrict": True,
        "createTime": 1_698_645_219_000,
        "enableReading": True,
        "enableWithdrawals": call.exchange.config.can_withdraw,
        "enableInternalTransfer": False,
        "enableMargin": False,
        "enableFutures": True,
        "permitsUniversalTransfer": False,
        "enableVanillaOptions": False,
        "enableFixApiTrade": False,
        "enableFixReadOnly": False,
        "enableSpotAndMarginTrading": True,
        "enablePortfolioMarginTrading": False,
    }


def get_coins(call: Call) -> list[dict[str, Any]]:
    """GET /sapi/v1/capital/config/getall: nothing can be moved in or out, so no coin has a network."""
    names = {m.instrument.base for m in call.exchange.markets.values()} | {"USDT"}
    return [
        {
            "coin": name,
            "name": name,
            "depositAllEnable": False,
            "withdrawAllEnable": False,
            "free": "0",
            "locked": "0",
            "freeze": "0",
            "withdrawing": "0",
            "ipoing": "0",
            "ipoable": "0",
            "storage": "0",
            "isLegalMoney": False,
            "trading": True,
            "networkList": [],
        }
        for name in sorted(names)
    ]


def get_no_pairs(_call: Call) -> list[dict[str, Any]]:
    """GET /sapi/v1/margin/allPairs and isolated/allPairs: spot margin is not traded here."""
    return []


_S, _K = Security.SIGNED, Security.KEY
ROUTES = (
    Route("GET", "/fapi/v2/account", get_account_v2, _S, 5),
    Route("GET", "/fapi/v3/account", get_account_v3, _S, 5),
    Route("GET", "/fapi/v1/account", get_account_v2, _S, 5),
    Route("GET", "/fapi/v1/balance", get_balance, _S, 5),
    Route("GET", "/fapi/v2/balance", get_balance, _S, 5),
    Route("GET", "/fapi/v3/balance", get_balance, _S, 5),
    Route("GET", "/fapi/v1/positionRisk", get_position_risk_v2, _S, 5),
    Route("GET", "/fapi/v2/positionRisk", get_position_risk_v2, _S, 5),
    Route("GET", "/fapi/v3/positionRisk", get_position_risk_v3, _S, 5),
    Route("GET", "/fapi/v1/positionSide/dual", get_dual, _S, 30),
    Route("POST", "/fapi/v1/positionSide/dual", post_dual, _S, 1),
    Route("GET", "/fapi/v1/multiAssetsMargin", get_multi_assets, _S, 30),
    Route("POST", "/fapi/v1/multiAssetsMargin", post_multi_assets, _S, 1),
    Route("POST", "/fapi/v1/leverage", post_leverage, _S, 1),
    Route("POST", "/fapi/v1/marginType", post_margin_type, _S, 1),
    Route("POST", "/fapi/v1/positionMargin", post_position_margin, _S, 1),
    Route("GET", "/fapi/v1/leverageBracket", get_brackets, _S, 1),
    Route("GET", "/fapi/v1/income", get_income, _S, 30),
    Route("GET", "/fapi/v1/commissionRate", get_commission, _S, 20),
    Route("GET", "/fapi/v1/accountConfig", get_account_config, _S, 5),
    Route("GET", "/fapi/v1/symbolConfig", get_symbol_config, _S, 5),
    Route("GET", "/fapi/v1/adlQuantile", get_adl, _S, 5),
    Route("GET", "/fapi/v1/feeBurn", get_fee_burn, _S, 30),
    Route("GET", "/fapi/v1/rateLimit/order", get_rate_limits, _S, 1),
    Route("POST", "/fapi/v1/listenKey", post_listen_key, _K, 1),
    Route("PUT", "/fapi/v1/listenKey", put_listen_key, _K, 1),
    Route("DELETE", "/fapi/v1/listenKey", delete_listen_key, _K, 1),
    Route("GET", "/sapi/v1/account/apiRestrictions", get_restrictions, _S, 1),
    Route("GET", "/sapi/v1/capital/config/getall", get_coins, _S, 10),
    Route("GET", "/sapi/v1/margin/allPairs", get_no_pairs, _K, 1),
    Route("GET", "/sapi/v1/margin/isolated/allPairs", get_no_pairs, _K, 1),
)
