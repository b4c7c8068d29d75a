"""ccxt's spot client, REST and pro, against a paper exchange."""

import asyncio
from typing import Any

import ccxt.pro as ccxt

from tests.outside.ccxt_client import KLINE, SPOT, code_of, options, redirect
from tests.outside.report import Report, arguments, candle_facts, hear_of_probes, run_async, wait_for_async


class Session:
    """One run of the steps."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.where = arguments()
        self.exchange: Any = ccxt.binance(options(self.where, "spot"))
        redirect(self.exchange, self.where)
        self.news: dict[str, list[str]] = {}
        self.balances: list[float] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def market(self) -> float:
        with self.report.step("load_markets") as facts:
            markets = await self.exchange.load_markets()
            facts["symbols"] = len([row for row in markets.values() if row["spot"]])
            facts["tick_size"] = str(markets[SPOT]["precision"]["price"])
            facts["lot_size"] = str(markets[SPOT]["precision"]["amount"])
        with self.report.step("candles") as facts:
            rows = await self.exchange.fetch_ohlcv(SPOT, KLINE, limit=100)
            facts.update(candle_facts([row[0] for row in rows], await self.exchange.fetch_time()))
            facts["fields"] = len(rows[0])
        with self.report.step("tickers") as facts:
            ticker = await self.exchange.fetch_ticker(SPOT)
            book = await self.exchange.fetch_order_book(SPOT, 5)
            facts["last"], facts["bid"], facts["ask"] = ticker["last"], book["bids"][0][0], book["asks"][0][0]
            facts["trades"] = len(await self.exchange.fetch_trades(SPOT, limit=10))
        with self.report.step("streams") as facts:
            got = [await self.exchange.watch_ohlcv(SPOT, KLINE) for _ in range(2)]
            facts["messages"], facts["close"] = len(got), got[-1][-1][4]
            facts["trade"] = (await self.exchange.watch_trades(SPOT))[-1]["price"]
            best = (await self.exchange.watch_bids_asks([SPOT]))[SPOT]
            facts["spread"] = best["ask"] - best["bid"]
            for _ in range(2):
                book_now = await self.exchange.watch_order_book(SPOT)
            facts["bids"] = len(book_now["bids"])
            facts["ticker"] = (await self.exchange.watch_ticker(SPOT))["last"]
        return float(ticker["last"])

    async def watch(self, price: float) -> None:
        async def orders() -> None:
            while True:
                for order in await self.exchange.watch_orders(SPOT):
                    told = self.news.setdefault(order["clientOrderId"], [])
                    if not told or told[-1] != order["status"]:
                        told.append(order["status"])

        async def balance() -> None:
            while True:
                self.balances.append((await self.exchange.watch_balance())["BTC"]["total"])

        self.tasks = [asyncio.create_task(orders()), asyncio.create_task(balance())]
        await hear_of_probes(self.exchange, SPOT, price * 0.95, self.news)

    async def order(self, role: str, kind: str, side: str, amount: float, price: float | None = None) -> Any:
        return await self.exchange.create_order(
            SPOT, kind, side, amount, price, {"clientOrderId": f"outside-{role}"}
        )

    async def trade(self, price: float) -> None:
        with self.report.step("limit_order") as facts:
            placed = await self.order("limit", "limit", "buy", 0.002, price * 0.95)
            facts["status"] = placed["info"]["status"]
            facts["open"] = [row["clientOrderId"] for row in await self.exchange.fetch_open_orders(SPOT)]
            facts["used"] = (await self.exchange.fetch_balance())["USDT"]["used"]
        with self.report.step("cancel") as facts:
            gone = await self.exchange.cancel_order(placed["id"], SPOT)
            facts["status"] = gone["info"]["status"]
            facts["open"] = [row["clientOrderId"] for row in await self.exchange.fetch_open_orders(SPOT)]
        with self.report.step("edit") as facts:
            first = await self.order("first", "limit", "buy", 0.002, price * 0.95)
            second = await self.exchange.edit_order(first["id"], SPOT, "limit", "buy", 0.003, price * 0.94)
            still = await self.exchange.fetch_open_orders(SPOT)
            facts["open"] = [row["amount"] for row in still]
            facts["moved"] = second["id"] != first["id"]
            await self.exchange.cancel_all_orders(SPOT)
        with self.report.step("fees") as facts:
            facts["taker"] = (await self.exchange.fetch_trading_fee(SPOT))["taker"]
            facts["status"] = (await self.exchange.fetch_status())["status"]
        with self.report.step("market_order") as facts:
            placed = await self.order("market", "market", "buy", 0.002)
            facts["status"], facts["average"] = placed["info"]["status"], placed["average"]
            trades = await self.exchange.fetch_my_trades(SPOT)
            facts["traded"] = sum(row["amount"] for row in trades if row["order"] == placed["id"])
            facts["fee"] = [[row["fee"]["currency"], row["fee"]["cost"]] for row in trades]
            facts["base"] = (await self.exchange.fetch_balance())["BTC"]["total"]
        with self.report.step("partial_fill") as facts:
            placed = await self.order("partial", "limit", "buy", 1, price * 1.02)
            seen = placed
            while seen["info"]["status"] == "NEW":
                await asyncio.sleep(0.1)
                seen = await self.exchange.fetch_order(placed["id"], SPOT)
            facts["status"] = seen["info"]["status"]
            gone = await self.exchange.cancel_order(placed["id"], SPOT)
            facts["final"], facts["executed"] = gone["info"]["status"], gone["filled"]
        with self.report.step("user_stream") as facts:
            await wait_for_async(
                "news of the cancel", lambda: "canceled" in self.news.get("outside-partial", [])
            )
            roles = ("limit", "market", "partial")
            facts["orders"] = {role: self.news.get(f"outside-{role}", []) for role in roles}
            facts["balances"] = len(self.balances)

    async def refusals(self, price: float) -> None:
        with self.report.step("insufficient") as facts:
            try:
                await self.order("rich", "limit", "sell", 500, price)
            except ccxt.BaseError as error:
                facts["kind"] = type(error).__name__
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
                    SPOT, params={"timestamp": self.exchange.milliseconds() - 60_000}
                )
            except ccxt.BaseError as error:
                facts["code"], facts["kind"] = code_of(error), type(error).__name__


def main() -> None:
    """Run every step."""
    report = Report("ccxt spot", "ccxt")

    async def script() -> None:
        session = Session(report)
        try:
            price = await session.market()
            await session.watch(price)
            await session.trade(price)
            await session.refusals(price)
        finally:
            for task in session.tasks:
                task.cancel()
            await session.exchange.close()

    run_async(report, script)


if __name__ == "__main__":
    main()
