"""ccxt.pro against a paper exchange: every `watch_*`, and orders over the WebSocket API."""

import asyncio
from collections.abc import Callable
from typing import Any

import ccxt.pro as ccxt

from tests.outside.ccxt_client import KLINE, PERPETUAL, code_of, options, redirect
from tests.outside.report import Report, arguments, candle_facts, hear_of_probes, run_async, wait_for_async


class Session:
    """One run of the steps."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.where = arguments()
        self.exchange: Any = ccxt.binance(options(self.where, "swap"))
        redirect(self.exchange, self.where)
        self.news: dict[str, list[str]] = {}
        self.trades: list[dict[str, Any]] = []
        self.balances: list[float] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def market(self) -> None:
        with self.report.step("load_markets") as facts:
            markets = await self.exchange.load_markets()
            market = markets[PERPETUAL]
            facts["symbols"] = len(markets)
            facts["tick_size"] = str(market["precision"]["price"])
            facts["lot_size"] = str(market["precision"]["amount"])
        with self.report.step("candles") as facts:
            rows = await self.exchange.fetch_ohlcv(PERPETUAL, KLINE, limit=100)
            facts.update(candle_facts([row[0] for row in rows], await self.exchange.fetch_time()))
            facts["fields"] = len(rows[0])
        with self.report.step("kline_stream") as facts:
            got = [await self.exchange.watch_ohlcv(PERPETUAL, KLINE) for _ in range(2)]
            facts["symbol"], facts["interval"] = self.exchange.market(PERPETUAL)["id"], KLINE
            facts["messages"], facts["close"] = len(got), got[-1][-1][4]
        with self.report.step("market_streams") as facts:
            ticker = await self.exchange.watch_ticker(PERPETUAL)
            facts["last"] = ticker["last"]
            best = (await self.exchange.watch_bids_asks([PERPETUAL]))[PERPETUAL]
            facts["spread"] = best["ask"] - best["bid"]
            facts["trade"] = (await self.exchange.watch_trades(PERPETUAL))[-1]["price"]
            facts["mark"] = (await self.exchange.watch_mark_price(PERPETUAL))["markPrice"]
            book = await self.exchange.watch_order_book(PERPETUAL)
            facts["bids"] = len(book["bids"])

    def listen(self, watch: Callable[[], Any], take: Callable[[Any], None]) -> None:
        async def loop() -> None:
            while True:
                take(await watch())

        self.tasks.append(asyncio.create_task(loop()))

    def take_orders(self, orders: Any) -> None:
        for order in orders:
            told = self.news.setdefault(order["clientOrderId"], [])
            if not told or told[-1] != order["status"]:
                told.append(order["status"])

    async def subscribe(self, price: float) -> None:
        self.listen(lambda: self.exchange.watch_orders(PERPETUAL), self.take_orders)
        self.listen(lambda: self.exchange.watch_my_trades(PERPETUAL), self.trades.extend)
        self.listen(self.exchange.watch_balance, lambda all_: self.balances.append(all_["USDT"]["total"]))
        await hear_of_probes(self.exchange, PERPETUAL, price * 0.95, self.news)

    async def order(
        self, role: str, kind: str, side: str, amount: float, price: float | None = None, **params: Any
    ) -> Any:
        return await self.exchange.create_order_ws(
            PERPETUAL, kind, side, amount, price, {"clientOrderId": f"outside-{role}", **params}
        )

    async def open_ids(self) -> list[str]:
        return [row["clientOrderId"] for row in await self.exchange.fetch_open_orders(PERPETUAL)]

    async def trade(self, price: float) -> None:
        with self.report.step("leverage") as facts:
            facts["leverage"] = int((await self.exchange.set_leverage(5, PERPETUAL))["leverage"])
        with self.report.step("limit_order") as facts:
            placed = await self.order("limit", "limit", "buy", 0.002, price * 0.95)
            facts["status"], facts["open"] = placed["info"]["status"], await self.open_ids()
        with self.report.step("cancel") as facts:
            gone = await self.exchange.cancel_order_ws(placed["id"], PERPETUAL)
            facts["status"], facts["open"] = gone["info"]["status"], await self.open_ids()
        with self.report.step("market_order") as facts:
            placed = await self.order("market", "market", "buy", 0.002)
            done = await self.exchange.fetch_order_ws(placed["id"], PERPETUAL)
            facts["status"], facts["executed"] = done["info"]["status"], done["info"]["executedQty"]
            facts["average"], facts["traded"] = done["average"], done["filled"]
        with self.report.step("partial_fill") as facts:
            placed = await self.order("partial", "limit", "buy", 1, price * 1.02)
            await wait_for_async("a trade", lambda: any(row["order"] == placed["id"] for row in self.trades))
            facts["status"] = (await self.exchange.fetch_order(placed["id"], PERPETUAL))["info"]["status"]
            gone = await self.exchange.cancel_order_ws(placed["id"], PERPETUAL)
            facts["final"], facts["executed"] = gone["info"]["status"], gone["filled"]
            facts["quantity"] = gone["amount"]

    async def stop_order(self, price: float) -> None:
        with self.report.step("algo_stop") as facts:
            made = await self.order(
                "stop", "market", "sell", 0.002, stopLossPrice=price * 0.9, reduceOnly=True
            )
            facts["status"] = made["info"]["algoStatus"]
            rows = await self.exchange.fetch_open_orders(PERPETUAL, params={"trigger": True})
            facts["open"] = [row["clientOrderId"] for row in rows]
            gone = await self.exchange.cancel_order(made["id"], PERPETUAL, params={"trigger": True})
            facts["cancel_code"] = gone["info"]["code"]
            facts["left"] = len(await self.exchange.fetch_open_orders(PERPETUAL, params={"trigger": True}))

    async def amount(self) -> float:
        return sum(float(row["contracts"]) for row in await self.exchange.fetch_positions([PERPETUAL]))

    async def close(self, price: float) -> None:
        with self.report.step("position") as facts:
            held = facts["amount"] = await self.amount()
            await self.order("close", "limit", "sell", held, price * 0.98, reduceOnly=True)
            await wait_for_async("the last fill", lambda: "closed" in self.news.get("outside-close", []))
            facts["after"] = await self.amount()
            facts["wallet"] = (await self.exchange.fetch_balance_ws())["USDT"]["total"]
        with self.report.step("user_stream") as facts:
            roles = ("limit", "market", "partial", "close")
            facts["orders"] = {role: self.news.get(f"outside-{role}", []) for role in roles}
            facts["accounts"] = len(self.balances)
            facts["fees"] = sum(row["fee"]["cost"] for row in self.trades)

    async def refusals(self) -> None:
        with self.report.step("bad_signature") as facts:
            secret, self.exchange.secret = self.exchange.secret, "not-this"
            try:
                await self.order("never", "market", "buy", 0.002)
            except ccxt.BaseError as error:
                facts["code"], facts["kind"] = code_of(error), type(error).__name__
            self.exchange.secret = secret
        with self.report.step("clock_skew") as facts:
            try:
                await self.order(
                    "late", "market", "buy", 0.002, timestamp=self.exchange.milliseconds() - 60_000
                )
            except ccxt.BaseError as error:
                facts["code"], facts["kind"] = code_of(error), type(error).__name__


def main() -> None:
    """Run every step."""
    report = Report("ccxt.pro", "ccxt")

    async def script() -> None:
        session = Session(report)
        try:
            await session.market()
            price = (await session.exchange.fetch_ticker(PERPETUAL))["last"]
            await session.subscribe(price)
            await session.trade(price)
            await session.stop_order(price)
            await session.close(price)
            await session.refusals()
        finally:
            for task in session.tasks:
                task.cancel()
            await session.exchange.close()

    run_async(report, script)


if __name__ == "__main__":
    main()
