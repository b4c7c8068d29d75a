"""`binance-futures-connector` against a paper exchange, by base_url and stream_url only."""

import json
from typing import Any

from binance.error import ClientError
from binance.um_futures import UMFutures
from binance.websocket.um_futures.websocket_client import (
    UMFuturesWebsocketClient,
)

from tests.outside.report import Report, arguments, candle_facts, run, user_facts, wait_for

SYMBOL = "BTCUSDT"


class Session:
    """One run of the steps; every public method is a step or a few."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.where = arguments()
        self.client = UMFutures(self.where.key, self.where.secret, base_url=self.where.rest, timeout=10)
        self.klines: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.placed: dict[str, str] = {}

    def market(self) -> None:
        with self.report.step("load_markets") as facts:
            symbols = {row["symbol"]: row for row in self.client.exchange_info()["symbols"]}
            filters = {row["filterType"]: row for row in symbols[SYMBOL]["filters"]}
            facts["symbols"] = len(symbols)
            facts["tick_size"] = filters["PRICE_FILTER"]["tickSize"]
            facts["lot_size"] = filters["LOT_SIZE"]["stepSize"]
        with self.report.step("candles") as facts:
            rows = self.client.klines(SYMBOL, "1m", limit=100)
            facts.update(candle_facts([row[0] for row in rows], self.client.time()["serverTime"]))
            facts["fields"] = len(rows[0])

    def streams(self) -> None:
        def on_kline(_: object, text: str) -> None:
            message = json.loads(text)
            if message.get("e") == "kline":
                self.klines.append(message)

        with self.report.step("kline_stream") as facts:
            stream = UMFuturesWebsocketClient(f"{self.where.ws}/market", on_message=on_kline)
            stream.kline(SYMBOL, "1m")
            wait_for("a second kline", lambda: len(self.klines) > 1)
            stream.stop()
            facts["symbol"] = self.klines[0]["s"]
            facts["interval"] = self.klines[0]["k"]["i"]
            facts["messages"] = len(self.klines)
            facts["close"] = float(self.klines[-1]["k"]["c"])

    def order(self, role: str, **parameters: object) -> dict[str, Any]:
        cid = self.placed[role] = f"outside-{role}"
        answer: dict[str, Any] = self.client.new_order(symbol=SYMBOL, newClientOrderId=cid, **parameters)
        return answer

    def trade(self, price: float) -> None:
        with self.report.step("leverage") as facts:
            facts["leverage"] = self.client.change_leverage(SYMBOL, 5)["leverage"]
        with self.report.step("limit_order") as facts:
            low = round(price * 0.95, 1)
            placed = self.order(
                "limit", side="BUY", type="LIMIT", timeInForce="GTC", quantity=0.002, price=low
            )
            facts["status"] = placed["status"]
            facts["open"] = [row["clientOrderId"] for row in self.client.get_orders(symbol=SYMBOL)]
        with self.report.step("cancel") as facts:
            gone = self.client.cancel_order(SYMBOL, origClientOrderId=self.placed["limit"])
            facts["status"] = gone["status"]
            facts["open"] = [row["clientOrderId"] for row in self.client.get_orders(symbol=SYMBOL)]
        with self.report.step("market_order") as facts:
            placed = self.order(
                "market", side="BUY", type="MARKET", quantity=0.002, newOrderRespType="RESULT"
            )
            done = self.client.query_order(SYMBOL, orderId=placed["orderId"])
            facts["status"], facts["executed"] = done["status"], done["executedQty"]
            facts["average"] = float(done["avgPrice"])
            trades = self.client.get_account_trades(symbol=SYMBOL, orderId=placed["orderId"])
            facts["traded"] = sum(float(row["qty"]) for row in trades)
        self.partial(price)

    def partial(self, price: float) -> None:
        with self.report.step("partial_fill") as facts:
            high = round(price * 1.02, 1)
            self.order("partial", side="BUY", type="LIMIT", timeInForce="GTC", quantity=1, price=high)
            cid = self.placed["partial"]
            seen = wait_for(
                "a partial fill",
                lambda: next(
                    (
                        row
                        for row in self.client.get_orders(symbol=SYMBOL)
                        if row["clientOrderId"] == cid and row["status"] == "PARTIALLY_FILLED"
                    ),
                    None,
                ),
            )
            facts["status"] = seen["status"]
            gone = self.client.cancel_order(SYMBOL, origClientOrderId=cid)
            facts["final"], facts["executed"] = gone["status"], float(gone["executedQty"])
            facts["quantity"] = float(gone["origQty"])

    def stop_order(self, price: float) -> None:
        with self.report.step("algo_stop") as facts:
            # The connector is older than the Algo endpoints; its own signed request reaches them.
            made = self.client.sign_request(
                "POST",
                "/fapi/v1/algoOrder",
                {
                    "algoType": "CONDITIONAL",
                    "symbol": SYMBOL,
                    "side": "SELL",
                    "type": "STOP_MARKET",
                    "quantity": 0.002,
                    "triggerPrice": round(price * 0.9, 1),
                    "clientAlgoId": "outside-stop",
                    "reduceOnly": "true",
                },
            )
            facts["status"] = made["algoStatus"]
            rows = self.client.sign_request("GET", "/fapi/v1/openAlgoOrders", {"symbol": SYMBOL})
            facts["open"] = [row["clientAlgoId"] for row in rows]
            gone = self.client.sign_request("DELETE", "/fapi/v1/algoOrder", {"clientAlgoId": "outside-stop"})
            facts["cancel_code"] = gone["code"]
            rows = self.client.sign_request("GET", "/fapi/v1/openAlgoOrders", {"symbol": SYMBOL})
            facts["left"] = len(rows)
        with self.report.step("old_stop_order") as facts:
            try:
                self.order(
                    "old", side="SELL", type="STOP_MARKET", quantity=0.002, stopPrice=round(price * 0.9, 1)
                )
            except ClientError as error:
                facts["code"] = error.error_code

    def amount(self) -> float:
        rows = self.client.get_position_risk(symbol=SYMBOL)
        return sum(float(row["positionAmt"]) for row in rows)

    def close(self) -> None:
        with self.report.step("position") as facts:
            held = facts["amount"] = self.amount()
            self.order(
                "close",
                side="SELL",
                type="LIMIT",
                timeInForce="GTC",
                reduceOnly="true",
                quantity=round(held, 3),
                price=round(self.price() * 0.98, 1),
            )
            wait_for("a flat position", lambda: self.amount() == 0)
            facts["after"] = self.amount()
            facts["wallet"] = float(self.client.account()["totalWalletBalance"])

    def price(self) -> float:
        return float(self.client.ticker_price(SYMBOL)["price"])

    def refusals(self) -> None:
        with self.report.step("bad_signature") as facts:
            other = UMFutures(self.where.key, "not-" + self.where.secret, base_url=self.where.rest)
            try:
                other.account()
            except ClientError as error:
                facts["code"], facts["http"] = error.error_code, error.status_code
        with self.report.step("clock_skew") as facts:
            late = {"symbol": SYMBOL, "timestamp": self.client.time()["serverTime"] - 60_000}
            late["signature"] = self.client._get_sign(self.client._prepare_params(late))
            try:
                self.client.send_request("GET", "/fapi/v1/openOrders", late)
            except ClientError as error:
                facts["code"], facts["http"] = error.error_code, error.status_code

    def user(self) -> None:
        key = self.client.new_listen_key()["listenKey"]
        stream = UMFuturesWebsocketClient(
            f"{self.where.ws}/private", on_message=lambda _, text: self.events.append(json.loads(text))
        )
        stream.user_data(listen_key=key)
        wait_for("the answer to SUBSCRIBE", lambda: any("result" in event for event in self.events))
        price = self.price()
        self.trade(price)
        self.stop_order(price)
        self.close()
        with self.report.step("user_stream") as facts:
            self.client.renew_listen_key(key)
            wait_for(
                "the last fill", lambda: "FILLED" in user_facts(self.events, self.placed)["orders"]["close"]
            )
            facts.update(user_facts(self.events, self.placed))
            stream.stop()
            self.client.close_listen_key(key)


def main() -> None:
    """Run every step."""
    report = Report("binance-futures-connector", "binance-futures-connector")

    def script() -> None:
        session = Session(report)
        session.market()
        session.streams()
        session.user()
        session.refusals()

    run(report, script)


if __name__ == "__main__":
    main()
