"""A live run under a world's activation."""

import asyncio
from typing import Any

from qmtl.runtime.sdk.activation import ActivationManager
from qmtl.runtime.sdk.node_run import SubmitResult
from qmtl.runtime.sdk.nodes.base import View
from qmtl.runtime.sdk.nodes.sources import StreamInput
from qmtl.runtime.sdk.runner import Runner
from qmtl.runtime.sdk.strategy import Strategy
from tests.runtime.sdk.gateway_server import gateway
from tests.runtime.sdk.runner_rig import FiringTradeOrderPublisher, Sink, order
from tests.runtime.sdk.socket_server import until


class Firing(Strategy):
    """Publishes what it is fed."""

    def setup(self) -> None:
        self.source = StreamInput(interval="1m", period=1)

        def latest(view: View) -> Any:
            return view[self.source][60][-1][1]

        self.add_nodes(
            self.source, FiringTradeOrderPublisher(self.source, latest, name="fire", interval="1m", period=1)
        )


async def give(runner: type[Runner], result: SubmitResult, minute: int, payload: Any) -> None:
    assert isinstance(result.strategy, Firing)
    runner.feed_queue_data(result.strategy.source, "q", 60, 60 * minute, payload)
    await asyncio.to_thread(runner.road.settle)


async def test_live_with_a_gateway_is_gated_by_its_world(runner: type[Runner]) -> None:
    sink = Sink()
    runner.set_trade_execution_service(sink)
    async with gateway() as server:
        result = await runner.submit_async(
            Firing, world="w", domain="live", gateway_url=server.url, token="world-token"
        )
        await until(lambda: server.sockets)
        assert server.tokens[0] == "Bearer world-token"
        assert result.status == "active", "one side is"
        await give(runner, result, 1, order("BUY"))
        await give(runner, result, 2, order("SELL"))
        await give(runner, result, 3, order("SELL", reduce_only=True))
        assert [(o["side"], o.get("reduce_only")) for o in sink.orders] == [("BUY", None), ("SELL", True)]
        await server.tell(side="long", active=True, sequence=2, effective_mode="validate")
        await until(lambda: result.status == "validating")
        await give(runner, result, 4, order("BUY"))
        await server.tell(side="long", active=True, sequence=3, effective_mode="shadow")
        await until(lambda: result.status == "rejected")
        await give(runner, result, 5, order("BUY"))
        assert len(sink.orders) == 2
        assert runner.road.counts == {"sent": 2, "denied": 3}
        await runner.shutdown_async()
        manager = result._run.manager
        assert isinstance(manager, ActivationManager)
        assert manager.is_stale(), "stopped with the run"


async def test_a_world_nobody_answers_for_stays_pending(runner: type[Runner]) -> None:
    sink = Sink()
    runner.set_trade_execution_service(sink)
    async with gateway() as server:
        server.statuses = {"activation": 500, "subscribe": 500}
        result = await runner.submit_async(Firing, world="w", domain="live", gateway_url=server.url)
        assert result.status == "pending"
        await give(runner, result, 1, order("BUY", reduce_only=True))
        assert sink.orders == []
        await runner.shutdown_async()
