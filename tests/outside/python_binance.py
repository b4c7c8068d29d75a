"""`python-binance` against a paper exchange, by its URL attributes only."""

import asyncio
from typing import Any

from binance import AsyncClient, BinanceSocketManager
from binance.exceptions import BinanceAPIException
from binance.ws.reconnecting_websocket import ReconnectingWebsocket

from tests.outside.report import (
    WAIT_S,
    Report,
    arguments,
    candle_facts,
    run_async,
    user_facts,
    wait_for_async,
)

SYMBOL = "BTCUSDT"


class Session:
    """One run of the steps."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.where = arguments()
        self.events: list[dict[str, Any]] = []
        self.placed: dict[str, str] = {}
        # Closing a quiet socket waits this long for a last message.
        ReconnectingWebsocket.TIMEOUT = 1
        AsyncClient.API_URL = f"{self.where.rest}/api"
        AsyncClient.MARGIN_API_URL = f"{self.where.rest}/sapi"
        AsyncClient.FUTURES_URL = f"{self.where.rest}/fapi"
        AsyncClient.WS_API_URL = f"{self.where.ws}/ws-api/v3"
        AsyncClient.WS_FUTURES_URL = f"{self.where.ws}/ws-fapi/v1"
        BinanceSocketManager.STREAM_URL = f"{self.where.ws}/"
        BinanceSocketManager.FSTREAM_URL = f"{self.where.ws}/"

    async def market(self, client: Any) -> None:
        with self.report.step("load_markets") as facts:
            info = await client.futures_exchange_info()
            symbols = {row["symbol"]: row for row in info["symbols"]}
            filters = {row["filterType"]: row for row in symbols[SYMBOL]["filters"]}
            facts["symbols"] = len(symbols)
            facts["tick_size"] = filters["PRICE_FILTER"]["tickSize"]
            facts["lot_size"] = filters["LOT_SIZE"]["stepSize"]
        with self.report.step("candles") as facts:
            rows = await client.futures_klines(symbol=SYMBOL, interval="1m", limit=100)
            now_ms = (await client.futures_time())["serverTime"]
            facts.update(candle_facts([row[0] for row in rows], now_ms))
            facts["fields"] = len(rows[0])

    async def streams(self, sockets: Any) -> None:
        with self.report.step("kline_stream") as facts:
            async with sockets.futures_multiplex_socket([f"{SYMBOL.lower()}@kline_1m"]) as stream:
                got = [await asyncio.wait_for(stream.recv(), WAIT_S) for _ in range(2)]
            last = got[-1]["data"]
            facts["symbol"], facts["interval"] = last["s"], last["k"]["i"]
            facts["messages"], facts["close"] = len(got), float(last["k"]["c"])
        with self.report.step("continuous_kline_stream") as facts:
            async with sockets.kline_futures_socket(SYMBOL) as stream:
                message = await asyncio.wait_for(stream.recv(), WAIT_S)
            facts["event"], facts["pair"] = message["e"], message["ps"]
            facts["close"] = float(message["k"]["c"])

    async def order(self, client: Any, role: str, **parameters: object) -> Any:
        self.placed[role] = f"outside-{role}"
        return await client.futures_create_order(
            symbol=SYMBOL, newClientOrderId=self.placed[role], **parameters
        )

    async def open_ids(self, client: Any) -> list[str]:
        return [row["clientOrderId"] for row in await client.futures_get_open_orders(symbol=SYMBOL)]

    async def trade(self, client: Any, price: float) -> None:
        with self.report.step("leverage") as facts:
            facts["leverage"] = (await client.futures_change_leverage(symbol=SYMBOL, leverage=5))["leverage"]
        with self.report.step("limit_order") as facts:
            low = round(price * 0.95, 1)
            placed = await self.order(
                client, "limit", side="BUY", type="LIMIT", timeInForce="GTC", quantity=0.002, price=low
            )
            facts["status"], facts["open"] = placed["status"], await self.open_ids(client)
        with self.report.step("cancel") as facts:
            gone = await client.futures_cancel_order(symbol=SYMBOL, origClientOrderId=self.placed["limit"])
            facts["status"], facts["open"] = gone["status"], await self.open_ids(client)
        with self.report.step("market_order") as facts:
            placed = await self.order(
                client, "market", side="BUY", type="MARKET", quantity=0.002, newOrderRespType="RESULT"
            )
            done = await client.futures_get_order(symbol=SYMBOL, orderId=placed["orderId"])
            facts["status"], facts["executed"] = done["status"], done["executedQty"]
            facts["average"] = float(done["avgPrice"])
            trades = await client.futures_account_trades(symbol=SYMBOL, orderId=placed["orderId"])
            facts["traded"] = sum(float(row["qty"]) for row in trades)

    async def partial(self, client: Any, price: float) -> None:
        with self.report.step("partial_fill") as facts:
            high = round(price * 1.02, 1)
            await self.order(
                client, "partial", side="BUY", type="LIMIT", timeInForce="GTC", quantity=1, price=high
            )
            cid = self.placed["partial"]
            while True:
                seen = await client.futures_get_order(symbol=SYMBOL, origClientOrderId=cid)
                if seen["status"] != "NEW":
                    break
                await asyncio.sleep(0.1)
            facts["status"] = seen["status"]
            gone = await client.futures_cancel_order(symbol=SYMBOL, origClientOrderId=cid)
            facts["final"], facts["executed"] = gone["status"], float(gone["executedQty"])
            facts["quantity"] = float(gone["origQty"])

    async def stop_order(self, client: Any, price: float) -> None:
        with self.report.step("algo_stop") as facts:
            made = await client.futures_create_order(
                symbol=SYMBOL,
                side="SELL",
                type="STOP_MARKET",
                quantity=0.002,
                stopPrice=round(price * 0.9, 1),
                reduceOnly="true",
                clientAlgoId="outside-stop",
            )
            facts["status"] = made["algoStatus"]
            rows = await client.futures_get_open_algo_orders(symbol=SYMBOL)
            facts["open"] = [row["clientAlgoId"] for row in rows]
            gone = await client.futures_cancel_algo_order(clientAlgoId="outside-stop")
            facts["cancel_code"] = gone["code"]
            facts["left"] = len(await client.futures_get_open_algo_orders(symbol=SYMBOL))

    async def ws_orders(self, client: Any, price: float) -> None:
        with self.report.step("ws_api") as facts:
            placed = await client.ws_futures_create_order(
                symbol=SYMBOL,
                side="BUY",
                type="LIMIT",
                timeInForce="GTC",
                quantity=0.002,
                price=round(price * 0.95, 1),
                newClientOrderId="outside-ws",
            )
            facts["status"] = placed["status"]
            seen = await client.ws_futures_get_order(symbol=SYMBOL, origClientOrderId="outside-ws")
            facts["seen"] = seen["status"]
            gone = await client.ws_futures_cancel_order(symbol=SYMBOL, origClientOrderId="outside-ws")
            facts["final"] = gone["status"]
            rows = await client.ws_futures_v2_account_position(symbol=SYMBOL)
            facts["amount"] = sum(float(row["positionAmt"]) for row in rows)

    async def amount(self, client: Any) -> float:
        rows = await client.futures_position_information(symbol=SYMBOL)
        return sum(float(row["positionAmt"]) for row in rows)

    async def close(self, client: Any, price: float) -> None:
        with self.report.step("position") as facts:
            held = facts["amount"] = await self.amount(client)
            await self.order(
                client,
                "close",
                side="SELL",
                type="LIMIT",
                timeInForce="GTC",
                reduceOnly="true",
                quantity=round(held, 3),
                price=round(price * 0.98, 1),
            )
            while await self.amount(client):
                await asyncio.sleep(0.1)
            facts["after"] = await self.amount(client)
            facts["wallet"] = float((await client.futures_account())["totalWalletBalance"])

    async def refusals(self, client: Any) -> None:
        with self.report.step("bad_signature") as facts:
            other = AsyncClient(self.where.key, "not-" + self.where.secret)
            try:
                await other.futures_account()
            except BinanceAPIException as error:
                facts["code"], facts["http"] = error.code, error.status_code
            await other.close_connection()
        with self.report.step("clock_skew") as facts:
            client.timestamp_offset -= 60_000
            try:
                await client.futures_account()
            except BinanceAPIException as error:
                facts["code"], facts["http"] = error.code, error.status_code
            client.timestamp_offset += 60_000

    async def listen(self, stream: Any) -> None:
        while True:
            self.events.append(await stream.recv())

    async def user(self, client: Any, sockets: Any) -> None:
        async with sockets.futures_user_socket() as stream:
            listener = asyncio.create_task(self.listen(stream))
            price = float((await client.futures_symbol_ticker(symbol=SYMBOL))["price"])
            await self.trade(client, price)
            await self.partial(client, price)
            await self.stop_order(client, price)
            await self.ws_orders(client, price)
            await self.close(client, price)
            with self.report.step("user_stream") as facts:
                await wait_for_async(
                    "the last fill",
                    lambda: "FILLED" in user_facts(self.events, self.placed)["orders"]["close"],
                )
                facts.update(user_facts(self.events, self.placed))
            listener.cancel()

    async def spot(self, client: Any, sockets: Any) -> None:
        told: list[dict[str, Any]] = []
        with self.report.step("spot") as facts:
            facts["candles"] = len(await client.get_klines(symbol=SYMBOL, interval="1m", limit=20))
            async with sockets.kline_socket(SYMBOL, "1m") as stream:
                facts["stream"] = (await asyncio.wait_for(stream.recv(), WAIT_S))["k"]["i"]
            async with sockets.user_socket() as stream:
                placed = await client.create_order(
                    symbol=SYMBOL, side="BUY", type="MARKET", quantity=0.002, newClientOrderId="outside-spot"
                )
                facts["status"] = placed["status"]
                while not any(event["e"] == "executionReport" and event["X"] == "FILLED" for event in told):
                    told.append(await asyncio.wait_for(stream.recv(), WAIT_S))
            facts["events"] = sorted({event["e"] for event in told})
            facts["base"] = float((await client.get_asset_balance("BTC"))["free"])


def main() -> None:
    """Run every step."""
    report = Report("python-binance", "python-binance")

    async def script() -> None:
        session = Session(report)
        client = await AsyncClient.create(session.where.key, session.where.secret)
        sockets = BinanceSocketManager(client)
        try:
            await session.market(client)
            await session.streams(sockets)
            await session.user(client, sockets)
            await session.spot(client, sockets)
            await session.refusals(client)
        finally:
            await client.ws_future.close()
            await client.close_connection()

    run_async(report, script)


if __name__ == "__main__":
    main()
