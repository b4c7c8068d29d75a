"""ccxt's asynchronous REST client against a paper exchange, by `urls` only."""

import asyncio
from typing import Any

import ccxt.async_support as ccxt

from tests.outside.ccxt_client import KLINE, PERPETUAL, code_of, options, redirect
from tests.outside.report import Report, arguments, candle_facts, run_async


class Session:
    """One run of the steps."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.where = arguments()
        self.exchange: Any = ccxt.binance(options(self.where, "swap"))
        redirect(self.exchange, self.where)

    async def market(self) -> float:
        with self.report.step("load_markets") as facts:
            markets = await self.exchange.load_markets()
            market = markets[PERPETUAL]
            facts["symbols"] = len(markets)
            facts["types"] = sorted({row["type"] for row in markets.values()})
            facts["tick_size"], facts["lot_size"] = (
                str(market["precision"]["price"]),
                str(market["precision"]["amount"]),
            )
        with self.report.step("candles") as facts:
            rows = await self.exchange.fetch_ohlcv(PERPETUAL, KLINE, limit=100)
            facts.update(candle_facts([row[0] for row in rows], await self.exchange.fetch_time()))
            facts["fields"] = len(rows[0])
            since = rows[10][0]
            paged = await self.exchange.fetch_ohlcv(PERPETUAL, KLINE, since=since, limit=5)
            facts["since_held"] = [row[0] for row in paged] == [row[0] for row in rows[10:15]]
        with self.report.step("tickers") as facts:
            ticker = await self.exchange.fetch_ticker(PERPETUAL)
            book = await self.exchange.fetch_order_book(PERPETUAL, 5)
            facts["last"], facts["bid"], facts["ask"] = ticker["last"], book["bids"][0][0], book["asks"][0][0]
            facts["trades"] = len(await self.exchange.fetch_trades(PERPETUAL, limit=10))
            funding = await self.exchange.fetch_funding_rate(PERPETUAL)
            facts["mark"] = funding["markPrice"]
        return float(ticker["last"])

    async def open_ids(self) -> list[str]:
        return [row["clientOrderId"] for row in await self.exchange.fetch_open_orders(PERPETUAL)]

    async def order(
        self, role: str, kind: str, side: str, amount: float, price: float | None = None, **params: Any
    ) -> Any:
        return await self.exchange.create_order(
            PERPETUAL, kind, side, amount, price, {"clientOrderId": f"outside-{role}", **params}
        )

    async def trade(self, price: float) -> None:
        with self.report.step("leverage") as facts:
            facts["leverage"] = int((await self.exchange.set_leverage(5, PERPETUAL))["leverage"])
            await self.exchange.set_margin_mode("isolated", PERPETUAL)
        with self.report.step("limit_order") as facts:
            placed = await self.order("limit", "limit", "buy", 0.002, price * 0.95)
            facts["status"], facts["open"] = placed["info"]["status"], await self.open_ids()
        with self.report.step("cancel") as facts:
            gone = await self.exchange.cancel_order(placed["id"], PERPETUAL)
            facts["status"], facts["open"] = gone["info"]["status"], await self.open_ids()
        with self.report.step("market_order") as facts:
            placed = await self.order("market", "market", "buy", 0.002)
            done = await self.exchange.fetch_order(placed["id"], PERPETUAL)
            facts["status"], facts["executed"] = done["info"]["status"], done["info"]["executedQty"]
            facts["average"] = done["average"]
            trades = await self.exchange.fetch_my_trades(PERPETUAL, params={"orderId": placed["id"]})
            facts["traded"] = sum(row["amount"] for row in trades)
            facts["fee"] = sum(row["fee"]["cost"] for row in trades)
        with self.report.step("partial_fill") as facts:
            placed = await self.order("partial", "limit", "buy", 1, price * 1.02)
            seen = placed
            while seen["info"]["status"] == "NEW":
                await asyncio.sleep(0.1)
                seen = await self.exchange.fetch_order(placed["id"], PERPETUAL)
            facts["status"] = seen["info"]["status"]
            gone = await self.exchange.cancel_order(placed["id"], PERPETUAL)
            facts["final"], facts["executed"] = gone["info"]["status"], gone["filled"]
            facts["quantity"] = gone["amount"]

    async def stop_order(self, price: float) -> None:
        with self.report.step("algo_stop") as facts:
            made = await self.order(
                "stop", "market", "sell", 0.002, stopLossPrice=price * 0.9, reduceOnly=True
            )
            facts["status"], facts["kind"] = made["info"]["algoStatus"], made["type"]
            rows = await self.exchange.fetch_open_orders(PERPETUAL, params={"trigger": True})
            facts["open"] = [row["clientOrderId"] for row in rows]
            gone = await self.exchange.cancel_order(made["id"], PERPETUAL, params={"trigger": True})
            facts["cancel_code"] = gone["info"]["code"]
            facts["left"] = len(await self.exchange.fetch_open_orders(PERPETUAL, params={"trigger": True}))

    async def amount(self) -> float:
        return sum(float(row["contracts"]) for row in await self.exchange.fetch_positions([PERPETUAL]))

    async def close(self, price: float) -> None:
        with self.report.step("position") as facts:
            rows = await self.exchange.fetch_positions([PERPETUAL])
            facts["side"], held = rows[0]["side"], await self.amount()
            facts["amount"] = held
            await self.order("close", "limit", "sell", held, price * 0.98, reduceOnly=True)
            while await self.amount():
                await asyncio.sleep(0.1)
            facts["after"] = await self.amount()
            facts["wallet"] = (await self.exchange.fetch_balance())["USDT"]["total"]

    async def listen_key(self) -> None:
        with self.report.step("user_stream") as facts:
            key = (await self.exchange.fapiPrivatePostListenKey())["listenKey"]
            again = (await self.exchange.fapiPrivatePostListenKey())["listenKey"]
            facts["same"], facts["length"] = key == again, len(key)
            await self.exchange.fapiPrivatePutListenKey()
            await self.exchange.fapiPrivateDeleteListenKey()

    async def refusals(self) -> None:
        with self.report.step("bad_signature") as facts:
            secret, self.exchange.secret = self.exchange.secret, "not-this"
            try:
                await self.exchange.fetch_balance()
            except ccxt.BaseError as error:
                facts["code"], facts["kind"] = code_of(error), type(error).__name__
            self.exchange.secret = secret
        with self.report.step("clock_skew") as facts:
            try:
                await self.exchange.fetch_open_orders(
                    PERPETUAL, params={"timestamp": self.exchange.milliseconds() - 60_000}
                )
            except ccxt.BaseError as error:
                facts["code"], facts["kind"] = code_of(error), type(error).__name__


def main() -> None:
    """Run every step."""
    report = Report("ccxt", "ccxt")

    async def script() -> None:
        session = Session(report)
        try:
            price = await session.market()
            await session.trade(price)
            await session.stop_order(price)
            await session.close(price)
            await session.listen_key()
            await session.refusals()
        finally:
            await session.exchange.close()

    run_async(report, script)


if __name__ == "__main__":
    main()
