"""What an outside client saw, step by step, as one JSON object; standard library only.

The scripts beside this file run in environments that do not hold qmtl.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import pairwise
from typing import Any

WAIT_S = 60.0
"""Nothing the exchange owes a client takes longer than this."""


class Report:
    """Facts by step, in the order the steps ran."""

    def __init__(self, client: str, *packages: str) -> None:
        self.client = client
        self.versions = {name: version(name) for name in packages}
        self.steps: dict[str, dict[str, Any]] = {}
        self.failed = ""
        self._began_s = time.monotonic()

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """Collect the facts of one step; a step that raises is named in `failed`."""
        facts: dict[str, Any] = {}
        self.failed = name
        yield facts
        self.steps[name] = facts
        self.failed = ""

    def dump(self) -> str:
        """The report as one line of JSON."""
        return json.dumps(
            {
                "client": self.client,
                "versions": self.versions,
                "took_s": round(time.monotonic() - self._began_s, 2),
                "failed": self.failed,
                "steps": self.steps,
            }
        )


def arguments() -> argparse.Namespace:
    """Where the paper exchange is and who we are."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rest", required=True, help="http://host:port")
    parser.add_argument("--ws", required=True, help="ws://host:port")
    parser.add_argument("--key", required=True)
    parser.add_argument("--secret", required=True)
    return parser.parse_args()


def run(report: Report, script: Callable[[], None]) -> None:
    """Run a script and print its report, whole or up to where it broke."""
    try:
        script()
    finally:
        print(report.dump(), flush=True)


def run_async(report: Report, script: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine script and print its report."""

    async def bounded() -> None:
        await asyncio.wait_for(script(), 90)

    run(report, lambda: asyncio.run(bounded()))


def wait_for(what: str, look: Callable[[], Any]) -> Any:
    """Ask `look` until it answers something true; TimeoutError names `what`."""
    end_s = time.monotonic() + WAIT_S
    while time.monotonic() < end_s:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise TimeoutError(f"{what} did not come in {WAIT_S} s")


async def wait_for_async(what: str, look: Callable[[], Any]) -> Any:
    """`wait_for` on the event loop."""
    end_s = time.monotonic() + WAIT_S
    while time.monotonic() < end_s:
        found = look()
        if found:
            return found
        await asyncio.sleep(0.05)
    raise TimeoutError(f"{what} did not come in {WAIT_S} s")


async def hear_of_probes(exchange: Any, symbol: str, price: float, news: dict[str, list[str]]) -> None:
    """Place and cancel orders through ccxt until the user stream tells of one; then it tells of all."""
    end_s = time.monotonic() + WAIT_S
    number = 0
    while not any(name.startswith("outside-probe") for name in news):
        if time.monotonic() > end_s:
            raise TimeoutError(f"no news of an order came in {WAIT_S} s")
        number += 1
        params = {"clientOrderId": f"outside-probe-{number}"}
        placed = await exchange.create_order(symbol, "limit", "buy", 0.002, price, params)
        await exchange.cancel_order(placed["id"], symbol)
        await asyncio.sleep(0.1)


def candle_facts(opens_ms: list[int], now_ms: int) -> dict[str, Any]:
    """Facts about a series of one-minute candles."""
    steps = {later - earlier for earlier, later in pairwise(opens_ms)}
    return {"count": len(opens_ms), "steps_ms": sorted(steps), "age_ms": now_ms - opens_ms[-1]}


def order_news(events: list[dict[str, Any]], client_order_id: str) -> list[str]:
    """The order states that ORDER_TRADE_UPDATE told of one order, in order."""
    return [
        event["o"]["X"]
        for event in events
        if event.get("e") == "ORDER_TRADE_UPDATE" and event["o"]["c"] == client_order_id
    ]


def user_facts(events: list[dict[str, Any]], placed: dict[str, str]) -> dict[str, Any]:
    """What the user stream told: the states of each order by its role, and how many account updates."""
    return {
        "orders": {role: order_news(events, cid) for role, cid in placed.items()},
        "accounts": sum(1 for event in events if event.get("e") == "ACCOUNT_UPDATE"),
        "fees": sum(float(e["o"].get("n", 0)) for e in events if e.get("e") == "ORDER_TRADE_UPDATE"),
    }
