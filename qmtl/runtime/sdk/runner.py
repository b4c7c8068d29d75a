"""Runs node strategies: the same nodes over history, on paper, beside the market and for real."""

import asyncio
from collections.abc import Mapping
from threading import RLock
from typing import Any, ClassVar

from qmtl.engine.clock import SystemClock, SystemRandom
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.activation import ActivationManager
from qmtl.runtime.sdk.background import BACKGROUND
from qmtl.runtime.sdk.brokerage import execution
from qmtl.runtime.sdk.brokerage.execution import ExecutionContext
from qmtl.runtime.sdk.brokerage.order_road import OrderRoad
from qmtl.runtime.sdk.node_engine import NodeEngine
from qmtl.runtime.sdk.node_run import NodeRun, SubmitResult
from qmtl.runtime.sdk.nodes.base import Node, is_whole
from qmtl.runtime.sdk.order_sink import RecordingDesk
from qmtl.runtime.sdk.publisher_road import PublisherRoad, Scope
from qmtl.runtime.sdk.strategy import Strategy

_CONTEXT_KEYS = ("execution_domain", "world_id", "as_of", "replay")
_MODES = {"simulate": "dryrun", "live": "live"}
_CLOCK, _RANDOM = SystemClock(), SystemRandom()


class Runner:
    """The one Runner of this process; every method is a class method.

    A run's domain is the one it was submitted with, else that of `set_default_context`, else the trade
    mode, else `connectors.execution_domain`. Backtest, dry run and any replay trade on a simulated venue;
    shadow records; live sends to the trade execution service and owns its account.
    """

    road: ClassVar[PublisherRoad] = PublisherRoad(
        _CLOCK,
        RecordingDesk("runner", _CLOCK, _RANDOM, is_durable=True),
        RecordingDesk("shadow", _CLOCK, _RANDOM, is_durable=False),
    )
    """The seven steps of every order; `road.counts` says what became of them."""

    _runs: ClassVar[list[NodeRun]] = []
    _engine: ClassVar[NodeEngine] = NodeEngine()
    _scope: ClassVar[Scope] = Scope(ExecutionContext())
    _lock: ClassVar[RLock] = RLock()
    _context: ClassVar[dict[str, Any]] = {}
    _mode: ClassVar[str | None] = None

    # --- what is set -------------------------------------------------------------------------------

    @classmethod
    def set_trade_execution_service(cls, service: Any) -> None:
        """Send orders to `service` (a broker client, or anything with `post_order`); None: to nobody."""
        cls.road.service = service

    @classmethod
    def set_activation_manager(cls, manager: Any) -> None:
        """Ask `manager` (`allow_order` or `allow_side`) about every order; None: ask nobody."""
        cls.road.gate = manager

    @classmethod
    def set_enable_trade_submission(cls, enabled: bool) -> None:  # noqa: FBT001 - the published signature
        """Switch the giving of orders on or off."""
        cls.road.is_enabled = bool(enabled)

    @classmethod
    def set_trade_mode(cls, mode: str) -> None:
        """Trade on paper ("simulate") or for real ("live"); ValueError for any other word."""
        if mode not in _MODES:
            raise ValueError(f'trade mode: expected "simulate" or "live", got {mode!r}')
        cls._mode = _MODES[mode]
        cls._publish_context()

    @classmethod
    def set_default_context(cls, context: Mapping[str, Any] | None = None, **keys: Any) -> None:
        """Set execution_domain, world_id, as_of, replay for whatever says nothing else; none clears them.

        ValueError names an unknown key, DomainViolation an unknown domain.
        """
        given = {**(context or {}), **keys}
        for key in given:
            if key not in _CONTEXT_KEYS:
                raise ValueError(f"context: unknown key {key!r}; known: {', '.join(_CONTEXT_KEYS)}")
        given["execution_domain"] = execution.parse_domain(given.get("execution_domain"))
        cls._context = given
        cls._publish_context()

    @classmethod
    def _publish_context(cls) -> None:
        """Let broker clients called directly see the Runner's domain too."""
        domain = cls._context.get("execution_domain") or cls._mode
        execution.set_default_context(ExecutionContext(domain, bool(cls._context.get("replay"))))

    @classmethod
    def reset_trade_order_dedup(cls) -> None:
        """Forget which orders were sent: equal ones pass again."""
        for scope in (cls._scope, *(run.scope for run in cls._runs)):
            scope.dedup.clear()

    # --- runs --------------------------------------------------------------------------------------

    @classmethod
    def submit(
        cls,
        strategy_cls: type[Strategy] | Strategy,
        *,
        world: str | None = None,
        domain: str | None = None,
        start: int | None = None,
        end: int | None = None,
        replay: bool = False,
        gateway_url: str | None = None,
        token: str | None = None,
    ) -> SubmitResult:
        """Run a strategy; with `start` and `end` (epoch seconds) over history, to its end.

        Otherwise its streams are warmed and go on from their provider's live feed or `feed_queue_data`.
        Live, `gateway_url` (else the configured one) gates orders by the world's activation. Raises what
        the strategy raises; ValueError names a node without history or a wrong argument; JournalError who
        else owns the account.
        """
        run = cls._prepare(strategy_cls, world, domain, start, end, replay=replay)
        cls._begin(run, gateway_url, token)
        if start is not None and end is not None:
            rows = BACKGROUND.run(run.load(start, end, cls._context.get("as_of")))
            run.replay(rows)
        else:
            BACKGROUND.run(run.warm_up())
            run.follow()
        return run.result

    @classmethod
    async def submit_async(
        cls,
        strategy_cls: type[Strategy] | Strategy,
        *,
        world: str | None = None,
        domain: str | None = None,
        start: int | None = None,
        end: int | None = None,
        replay: bool = False,
        gateway_url: str | None = None,
        token: str | None = None,
    ) -> SubmitResult:
        """See submit; history is computed on another thread, so that the loop goes on."""
        run = cls._prepare(strategy_cls, world, domain, start, end, replay=replay)
        await asyncio.to_thread(cls._begin, run, gateway_url, token)
        if start is not None and end is not None:
            rows = await run.load(start, end, cls._context.get("as_of"))
            await asyncio.to_thread(run.replay, rows)
        else:
            await run.warm_up()
            run.follow()
        return run.result

    @classmethod
    def _prepare(
        cls,
        strategy_cls: type[Strategy] | Strategy,
        world: str | None,
        domain: str | None,
        start: int | None,
        end: int | None,
        *,
        replay: bool,
    ) -> NodeRun:
        if (start is None) != (end is None):
            raise ValueError(f"{'start' if start is None else 'end'}: is missing; start and end go together")
        if start is not None and end is not None and not 0 <= start <= end:
            raise ValueError(f"start, end: expected 0 <= start <= end in epoch seconds, got {start}, {end}")
        # Old bars must never become orders of today: history is a replay whatever the domain says.
        is_replay = replay or start is not None or bool(cls._context.get("replay"))
        where = cls._domain(domain)
        context = ExecutionContext(where, is_replay and where != "backtest")
        strategy = strategy_cls() if isinstance(strategy_cls, type) else strategy_cls
        with execution.running(context):
            strategy.setup()
        world = world or cls._context.get("world_id")
        return NodeRun(strategy, context, cls.road, world=world, needs_history=start is not None)

    @classmethod
    def _begin(cls, run: NodeRun, gateway_url: str | None, token: str | None) -> None:
        """Take what a live run needs: its account and its gate."""
        if run.scope.context.domain == "live" and not run.scope.context.is_replay:
            service = cls.road.service
            if isinstance(service, OrderRoad):
                BACKGROUND.run(_take_account(service))
            elif service is not None:
                cls.road.desk.open()
            connectors = runtime.settings().connectors
            gateway = gateway_url or connectors.gateway_url
            if gateway is not None:
                secret = connectors.gateway_token
                run.manager = ActivationManager(
                    gateway,
                    world_id=run.world or connectors.world_id,
                    strategy_id=connectors.strategy_id,
                    token=token or (None if secret is None else secret.get_secret_value()),
                )
                run.scope.gate = run.manager
                BACKGROUND.run(run.manager.start())
        if run.manager is None:
            run.manager = cls.road.gate
        with cls._lock:
            cls._runs.append(run)

    @classmethod
    def _domain(cls, given: str | None = None) -> str | None:
        domain = execution.parse_domain(given) or cls._context.get("execution_domain") or cls._mode
        return domain or runtime.settings().connectors.execution_domain

    @classmethod
    def feed_queue_data(
        cls,
        node: Node,
        queue_id: str,
        interval: int | str,
        timestamp: int,
        payload: Any,
        *,
        on_missing: str = "skip",
    ) -> Any:
        """Give a node one row of a queue and compute what reads it; return the node's own result.

        `timestamp` is in epoch seconds (a bar's open). Rows must ascend: older ones are dropped; after a gap
        `skip` keeps the row without computing, `fail` raises RuntimeError. A stream's readers compute, down
        to the orders; a processing node takes the row as if it came from the upstream named `queue_id`.
        """
        if not is_whole(timestamp, least=0):
            raise ValueError(f"timestamp: expected epoch seconds, got {timestamp!r}")
        row = (timestamp, payload)
        for run in cls._runs:
            if node in run.nodes:
                return run.feed(node, queue_id, interval, row, on_missing)
        with cls._lock:
            replay = bool(cls._context.get("replay"))
            context = cls._scope.context = ExecutionContext(cls._domain(node.execution_domain), replay)
            with execution.running(context):
                plan = cls._engine.admit(node, queue_id, interval, row, on_missing)
                if plan is None:
                    return None
                result, emissions = plan.walk(row)
            cls.road.publish_all(emissions, cls._scope)
        return result

    # --- the end -----------------------------------------------------------------------------------

    @classmethod
    def shutdown(cls) -> None:
        """End every run: feeds, gates, orders on their way. Raises the first error that nobody saw."""
        with cls._lock:
            runs, cls._runs = cls._runs, []
            cls._engine = NodeEngine()
            cls._scope = Scope(ExecutionContext())
        try:
            for run in runs:
                run.stop()
        finally:
            cls.road.close()

    @classmethod
    async def shutdown_async(cls) -> None:
        """See shutdown."""
        await asyncio.to_thread(cls.shutdown)


async def _take_account(service: OrderRoad) -> None:
    # Opening its journal is what takes a client's account.
    service.desk  # noqa: B018
