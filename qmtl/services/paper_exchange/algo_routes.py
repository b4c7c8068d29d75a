"""Conditional orders: the Algo service that owns them since 2025-12-09."""

from typing import Any

from qmtl.services.paper_exchange.auth import Security
from qmtl.services.paper_exchange.call import Call, Route, per_symbol
from qmtl.services.paper_exchange.errors import VenueError, missing
from qmtl.services.paper_exchange.order_request import parse_algo
from qmtl.services.paper_exchange.records import AlgoRecord, dump_algo


def _dump(call: Call, record: AlgoRecord) -> dict[str, Any]:
    return dump_algo(record, call.account.order_of(record))


def post_algo(call: Call) -> dict[str, Any]:
    """POST /fapi/v1/algoOrder."""
    intent, client_id = parse_algo(call)
    name = client_id or f"algo_{call.exchange.random.randbytes(10).hex()}"
    is_protected = call.flag("priceProtect")
    return _dump(call, call.account.place_algo(intent, name, call.now_ms, is_protected=is_protected))


def _find(call: Call, code: int) -> AlgoRecord:
    algo_id, client_id = call.integer("algoId"), call.params.get("clientAlgoId")
    if algo_id is None and not client_id:
        raise missing("algoId")
    record = call.account.find_algo(algo_id, client_id)
    if record is None:
        raise VenueError(code)
    return record


def get_algo(call: Call) -> dict[str, Any]:
    """GET /fapi/v1/algoOrder."""
    return _dump(call, _find(call, -2013))


def delete_algo(call: Call) -> dict[str, Any]:
    """DELETE /fapi/v1/algoOrder."""
    record = _find(call, -2011)
    call.account.cancel_algo(record, call.now_ms)
    return {
        "algoId": record.algo_id,
        "clientAlgoId": record.client_id,
        "code": "200",
        "msg": "success",
    }


def get_open_algos(call: Call) -> list[dict[str, Any]]:
    """GET /fapi/v1/openAlgoOrders, of one symbol or all."""
    symbol = call.market().symbol if call.params.get("symbol") else None
    algo_id = call.integer("algoId")
    found = call.account.open_algos(symbol)
    return [_dump(call, record) for record in found if algo_id in {None, record.algo_id}]


def get_all_algos(call: Call) -> list[dict[str, Any]]:
    """GET /fapi/v1/allAlgoOrders: from an id, or by time, oldest first."""
    market, limit = call.market(), call.limit(500, 1_000)
    from_id, start, end = call.integer("algoId"), call.integer("startTime"), call.integer("endTime")
    found = [
        record
        for record in call.account.algos.values()
        if record.intent.symbol == market.symbol
        and (from_id is None or record.algo_id >= from_id)
        and (start is None or record.create_ms >= start)
        and (end is None or record.create_ms <= end)
    ]
    chosen = found[:limit] if from_id is not None or start is not None else found[-limit:]
    return [_dump(call, record) for record in chosen]


def delete_open_algos(call: Call) -> dict[str, Any]:
    """DELETE /fapi/v1/algoOpenOrders."""
    market = call.market()
    for record in call.account.open_algos(market.symbol):
        call.account.cancel_algo(record, call.now_ms)
    return {"code": 200, "msg": "The operation of cancel all open order is done."}


_SIGNED = Security.SIGNED
ROUTES = (
    Route("POST", "/fapi/v1/algoOrder", post_algo, _SIGNED, 0, is_order=True),
    Route("GET", "/fapi/v1/algoOrder", get_algo, _SIGNED, 1),
    Route("DELETE", "/fapi/v1/algoOrder", delete_algo, _SIGNED, 1),
    Route("GET", "/fapi/v1/openAlgoOrders", get_open_algos, _SIGNED, per_symbol(1, 40)),
    Route("GET", "/fapi/v1/allAlgoOrders", get_all_algos, _SIGNED, 5),
    Route("DELETE", "/fapi/v1/algoOpenOrders", delete_open_algos, _SIGNED, 1),
)
