"""One strategy, on paper or for real, as `connectors.execution_domain` in qmtl.yml says.

Dry run (the default) trades on a simulated broker, whatever `broker_url` says; live sends orders to it.
Run it as `python -m qmtl.examples.strategies.dryrun_live_switch_strategy`.
"""

import asyncio
import sys
from typing import Any

from pydantic import SecretStr

from qmtl import logs
from qmtl.config import ConfigError
from qmtl.core.order import BrokerageError
from qmtl.runtime.sdk import (
    ProcessingNode,
    Runner,
    StreamInput,
    TradeExecutionService,
    TradeOrderPublisherNode,
    WebSocketFeed,
    runtime,
)
from qmtl.runtime.sdk.nodes.base import View
from qmtl.runtime.sdk.strategy import Strategy
from qmtl.settings import ConnectorsSection

WINDOW = 20
MINUTE = 60


class SwitchStrategy(Strategy):
    """Buys a little below the mean of twenty closes, sells above it."""

    def setup(self) -> None:
        """Make the three nodes."""
        price = StreamInput(["price"], interval="1m", period=WINDOW)

        def signal(view: View) -> dict[str, Any]:
            closes = [row["close"] for _, row in view[price][MINUTE]]
            is_cheap = closes[-1] < sum(closes) / len(closes)
            return {"action": "BUY" if is_cheap else "SELL", "size": 0.001, "symbol": "BTC/USDT"}

        side = ProcessingNode(price, signal, name="side", interval="1m", period=WINDOW)
        self.add_nodes([price, side, TradeOrderPublisherNode(side)])


def connect(connectors: ConnectorsSection, domain: str) -> None:
    """Wire the broker of `domain`; ConfigError where it cannot be."""
    if domain not in {"dryrun", "live"}:
        raise ConfigError(
            f"connectors.execution_domain must be dryrun or live for this example, not {domain}"
        )
    service = None
    if domain == "live":
        if connectors.broker_url is None:
            raise ConfigError("connectors.broker_url must be set for the live domain")
        service = TradeExecutionService(
            connectors.broker_url,
            max_retries=connectors.trade_max_retries,
            backoff=connectors.trade_backoff,
            token=_reveal(connectors.broker_token),
        )
    Runner.set_trade_mode("live" if domain == "live" else "simulate")
    Runner.set_trade_execution_service(service)


async def run() -> None:
    """Wire, connect the feed for a second, submit."""
    connectors = runtime.settings().connectors
    domain = connectors.execution_domain or "dryrun"
    connect(connectors, domain)
    broker = connectors.broker_url if domain == "live" else "simulated"
    sys.stdout.write(f"execution_domain={domain} broker={broker} ws={connectors.ws_url}\n")
    feed = None
    try:
        if connectors.ws_url is not None:
            feed = WebSocketFeed(connectors.ws_url, token=_reveal(connectors.ws_token))
            await feed.start()
            await asyncio.sleep(1)
            sys.stdout.write(f"feed: {feed.state}\n")
        result = await Runner.submit_async(SwitchStrategy, domain=domain)
        sys.stdout.write(f"Strategy submitted: {result.status}\n")
    finally:
        if feed is not None:
            await feed.stop()
        await Runner.shutdown_async()


def main() -> int:
    """Run the example; exit status 2 for a configuration that cannot work, 1 for a broker that does not."""
    try:
        # Records go to stderr: stdout says only what the example found.
        logs.set_up(is_json=False)
        asyncio.run(run())
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except BrokerageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _reveal(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


if __name__ == "__main__":
    raise SystemExit(main())
