"""The official `binance-sdk-derivatives-trading-usds-futures` against a paper exchange, by its URLs only.

REST, market and user streams on the 2026 paths, and orders through the WebSocket API.
"""

from typing import Any

from binance_common.configuration import (
    ConfigurationRestAPI,
    ConfigurationWebSocketAPI,
    ConfigurationWebSocketStreams,
)
from binance_common.errors import BadRequestError
from binance_common.utils import send_request
from binance_sdk_derivatives_trading_usds_futures.derivatives_trading_usds_futures import (
    DerivativesTradingUsdsFutures,
)

from tests.outside.report import Report, arguments, candle_facts, run_async, user_facts, wait_for_async

SYMBOL = "BTCUSDT"
_EVENTS = {"OrderTradeUpdate": "ORDER_TRADE_UPDATE", "AccountUpdate": "ACCOUNT_UPDATE"}


class Session:
    """One run of the steps."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.where = arguments()
        self.sdk = self.connect(self.where.secret)
        self.rest = self.sdk.rest_api
        self.events: list[dict[str, Any]] = []
        self.klines: list[Any] = []
        self.placed: dict[str, str] = {}

    def connect(self, secret: str) -> Any:
        keys: dict[str, Any] = {"api_key": self.where.key, "api_secret": secret}
        return DerivativesTradingUsdsFutures(
            config_rest_api=ConfigurationRestAPI(
                **keys, base_path=self.where.rest, timeout=10_000, retries=0
            ),
            config_ws_api=ConfigurationWebSocketAPI(**keys, stream_url=f"{self.where.ws}/ws-fapi/v1"),
            config_ws_streams=ConfigurationWebSocketStreams(stream_url=f"{self.where.ws}/stream"),
        )

    def now_ms(self) -> int:
        return int(self.rest.check_server_time().data().server_time)

    def price(self) -> float:
        return float(self.rest.symbol_price_ticker_v2(symbol=SYMBOL).data().actual_instance.price)

    def market(self) -> None:
        with self.report.step("load_markets") as facts:
            symbols = {row.symbol: row for row in self.rest.exchange_information().data().symbols}
            filters = {row.filter_type: row for row in symbols[SYMBOL].filters}
            facts["symbols"] = len(symbols)
            facts["tick_size"] = filters["PRICE_FILTER"].tick_size
            facts["lot_size"] = filters["LOT_SIZE"].step_size
        with self.report.step("candles") as facts:
            rows = self.rest.kline_candlestick_data(symbol=SYMBOL, interval="1m", limit=100).data()
            facts.update(candle_facts([int(row[0]) for row in rows], self.now_ms()))
            facts["fields"] = len(rows[0])

    async def streams(self, streams: Any) -> None:
        with self.report.step("kline_stream") as facts:
            stream = await streams.kline_candlestick_streams(symbol=SYMBOL.lower(), interval="1m")
            stream.on("message", self.klines.append)
            await wait_for_async("a second kline", lambda: len(self.klines) > 1)
            await stream.unsubscribe()
            last = self.klines[-1]
            facts["symbol"], facts["interval"] = last.s, last.k.i
            facts["messages"], facts["close"] = len(self.klines), float(last.k.c)

    def order(self, role: str, **parameters: Any) -> Any:
        self.placed[role] = f"outside-{role}"
        return self.rest.new_order(symbol=SYMBOL, new_client_order_id=self.placed[role], **parameters).data()

    def open_ids(self) -> list[str]:
        return [row.client_order_id for row in self.rest.current_all_open_orders(symbol=SYMBOL).data()]

    def trade(self, price: float) -> None:
        with self.report.step("leverage") as facts:
            facts["leverage"] = self.rest.change_initial_leverage(symbol=SYMBOL, leverage=5).data().leverage
        with self.report.step("limit_order") as facts:
            placed = self.order(
                "limit",
                side="BUY",
                type="LIMIT",
                time_in_force="GTC",
                quantity=0.002,
                price=round(price * 0.95, 1),
            )
            facts["status"], facts["open"] = placed.status, self.open_ids()
        with self.report.step("cancel") as facts:
            gone = self.rest.cancel_order(symbol=SYMBOL, orig_client_order_id=self.placed["limit"]).data()
            facts["status"], facts["open"] = gone.status, self.open_ids()
        with self.report.step("market_order") as facts:
            placed = self.order(
                "market", side="BUY", type="MARKET", quantity=0.002, new_order_resp_type="RESULT"
            )
            done = self.rest.query_order(symbol=SYMBOL, order_id=placed.order_id).data()
            facts["status"], facts["executed"] = done.status, done.executed_qty
            facts["average"] = float(done.avg_price)
            trades = self.rest.account_trade_list(symbol=SYMBOL, order_id=placed.order_id).data()
            facts["traded"] = sum(float(row.qty) for row in trades)

    async def partial(self, price: float) -> None:
        with self.report.step("partial_fill") as facts:
            self.order(
                "partial",
                side="BUY",
                type="LIMIT",
                time_in_force="GTC",
                quantity=1,
                price=round(price * 1.02, 1),
            )
            cid = self.placed["partial"]

            def status() -> str:
                return str(self.rest.query_order(symbol=SYMBOL, orig_client_order_id=cid).data().status)

            await wait_for_async("a partial fill", lambda: status() != "NEW")
            facts["status"] = status()
            gone = self.rest.cancel_order(symbol=SYMBOL, orig_client_order_id=cid).data()
            facts["final"], facts["executed"] = gone.status, float(gone.executed_qty)
            facts["quantity"] = float(gone.orig_qty)

    def stop_order(self, price: float) -> None:
        with self.report.step("algo_stop") as facts:
            made = self.rest.new_algo_order(
                algo_type="CONDITIONAL",
                symbol=SYMBOL,
                side="SELL",
                type="STOP_MARKET",
                quantity=0.002,
                trigger_price=round(price * 0.9, 1),
                reduce_only="true",
                client_algo_id="outside-stop",
            ).data()
            facts["status"] = made.algo_status
            rows = self.rest.current_all_algo_open_orders(symbol=SYMBOL).data()
            facts["open"] = [row.client_algo_id for row in rows]
            gone = self.rest.cancel_algo_order(client_algo_id="outside-stop").data()
            facts["cancel_code"] = gone.code
            facts["left"] = len(self.rest.current_all_algo_open_orders(symbol=SYMBOL).data())

    async def ws_orders(self, price: float) -> None:
        with self.report.step("ws_api") as facts:
            ws = self.sdk.websocket_api
            await ws.create_connection()
            low = round(price * 0.95, 1)
            made = await ws.new_order(
                symbol=SYMBOL,
                side="BUY",
                type="LIMIT",
                time_in_force="GTC",
                quantity=0.002,
                price=low,
                new_client_order_id="outside-ws",
            )
            facts["status"], facts["limits"] = made.data().result.status, len(made.rate_limits)
            moved = await ws.modify_order(
                symbol=SYMBOL, side="BUY", quantity=0.003, price=low, orig_client_order_id="outside-ws"
            )
            facts["modified"] = moved.data().result.orig_qty
            seen = await ws.query_order(symbol=SYMBOL, orig_client_order_id="outside-ws")
            facts["seen"] = seen.data().result.status
            gone = await ws.cancel_order(symbol=SYMBOL, orig_client_order_id="outside-ws")
            facts["final"] = gone.data().result.status
            again = await ws.cancel_order(symbol=SYMBOL, orig_client_order_id="outside-ws")
            facts["again"] = again.data()["error"]["code"]
            await self.ws_rest_of_it(ws, price, facts)
            await ws.close_connection()

    async def ws_rest_of_it(self, ws: Any, price: float, facts: dict[str, Any]) -> None:
        made = await ws.new_algo_order(
            algo_type="CONDITIONAL",
            symbol=SYMBOL,
            side="SELL",
            type="STOP_MARKET",
            quantity=0.002,
            trigger_price=round(price * 0.9, 1),
            reduce_only="true",
            client_algo_id="outside-ws-stop",
        )
        facts["algo"] = made.data().result.algo_status
        gone = await ws.cancel_algo_order(client_algo_id="outside-ws-stop")
        facts["algo_cancel"] = gone.data().result.code
        rows = (await ws.position_information_v2(symbol=SYMBOL)).data().result
        facts["amount"] = sum(float(row.position_amt) for row in rows)
        account = (await ws.account_information_v2()).data().result
        facts["wallet"] = float(account.total_wallet_balance)
        balances = (await ws.futures_account_balance_v2()).data().result
        facts["assets"] = sorted(row.asset for row in balances)
        facts["price"] = float(
            (await ws.symbol_price_ticker(symbol=SYMBOL)).data().actual_instance.result.price
        )
        book = (await ws.symbol_order_book_ticker(symbol=SYMBOL)).data().actual_instance.result
        facts["spread"] = float(book.ask_price) - float(book.bid_price)
        depth = (await ws.order_book(symbol=SYMBOL, limit=5)).data().result
        facts["book"] = depth.last_update_id
        key = (await ws.start_user_data_stream()).data().result.listen_key
        facts["listen_key"] = len(key)
        facts["kept"] = (await ws.keepalive_user_data_stream()).data().result.listen_key == key

    def amount(self) -> float:
        rows = self.rest.position_information_v3(symbol=SYMBOL).data()
        return sum(float(row.position_amt) for row in rows)

    async def close(self, price: float) -> None:
        with self.report.step("position") as facts:
            held = facts["amount"] = self.amount()
            self.order(
                "close",
                side="SELL",
                type="LIMIT",
                time_in_force="GTC",
                reduce_only="true",
                quantity=round(held, 3),
                price=round(price * 0.98, 1),
            )
            await wait_for_async("a flat position", lambda: self.amount() == 0)
            facts["after"] = self.amount()
            facts["wallet"] = float(self.rest.account_information_v3().data().total_wallet_balance)

    def refusals(self) -> None:
        with self.report.step("bad_signature") as facts:
            try:
                self.connect("not-" + self.where.secret).rest_api.account_information_v3()
            except BadRequestError as error:
                facts["code"], facts["http"] = error.status_code, 400
        with self.report.step("clock_skew") as facts:
            try:
                send_request(
                    self.rest._session,
                    self.rest.configuration,
                    "GET",
                    "/fapi/v3/account",
                    {"timestamp": self.now_ms() - 60_000},
                    is_signed=True,
                )
            except BadRequestError as error:
                facts["code"], facts["http"] = error.status_code, 400

    async def user(self, streams: Any) -> None:
        key = self.rest.start_user_data_stream().data().listen_key
        stream = await streams.user_data(key)

        def on_event(event: Any) -> None:
            # The SDK's models drop the event name; their class says it.
            told = event.actual_instance
            name = _EVENTS.get(type(told).__name__, "")
            self.events.append(told.to_dict() | {"e": name})

        stream.on("message", on_event)
        price = self.price()
        self.trade(price)
        await self.partial(price)
        self.stop_order(price)
        await self.ws_orders(price)
        await self.close(price)
        with self.report.step("user_stream") as facts:
            await wait_for_async(
                "the last fill", lambda: "FILLED" in user_facts(self.events, self.placed)["orders"]["close"]
            )
            facts.update(user_facts(self.events, self.placed))
            self.rest.keepalive_user_data_stream()
            self.rest.close_user_data_stream()


def main() -> None:
    """Run every step."""
    report = Report("official-sdk", "binance-sdk-derivatives-trading-usds-futures")

    async def script() -> None:
        session = Session(report)
        session.market()
        streams = session.sdk.websocket_streams
        await streams.create_connection()
        try:
            await session.streams(streams)
            await session.user(streams)
        finally:
            await streams.close_connection(close_session=True)
        session.refusals()

    run_async(report, script)


if __name__ == "__main__":
    main()
