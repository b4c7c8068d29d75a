"""One submitted strategy: its nodes, its rows, and whoever decides about it."""

from collections.abc import Iterable
from concurrent.futures import Future
from threading import RLock
from typing import Any

import structlog

from qmtl.engine.ports import EventJournal
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.activation import ActivationManager
from qmtl.runtime.sdk.background import BACKGROUND
from qmtl.runtime.sdk.brokerage import execution
from qmtl.runtime.sdk.brokerage.execution import ExecutionContext
from qmtl.runtime.sdk.brokerage.intent_desk import configured_limits
from qmtl.runtime.sdk.history import FetchError, SeamlessError, StoreError
from qmtl.runtime.sdk.node_engine import NodeEngine, upstream_sources
from qmtl.runtime.sdk.node_simulation import Simulation
from qmtl.runtime.sdk.nodes.base import Node, Row
from qmtl.runtime.sdk.nodes.sources import StreamInput, rows_of
from qmtl.runtime.sdk.publisher_road import PublisherRoad, Scope
from qmtl.runtime.sdk.strategy import Strategy

_SIMULATED = frozenset({"backtest", "dryrun"})
_log = structlog.get_logger("qmtl.runner")


class SubmitResult:
    """What became of a submitted strategy; `status` is looked up when it is read.

    `journal` holds what a simulated run did (bars, orders, fills, one reason per bar), None elsewhere.
    """

    def __init__(self, run: "NodeRun") -> None:
        self._run = run
        self.strategy = run.strategy
        self.domain = run.scope.context.domain
        self.world = run.world
        simulation = run.scope.simulation
        self.journal: EventJournal | None = None if simulation is None else simulation.journal

    @property
    def status(self) -> str:
        """`active`; with a world `pending` until its activation answers active, validating or rejected."""
        manager = self._run.manager
        if self.world is None:
            return "active"
        if not isinstance(manager, ActivationManager) or manager.is_stale():
            return "pending"
        state = manager.state
        if state.effective_mode == "validate":
            return "validating"
        if state.domain not in {None, self.domain}:
            return "rejected"
        return "active" if state.long.active or state.short.active else "pending"

    def __repr__(self) -> str:
        return f"SubmitResult(status={self.status!r}, domain={self.domain!r}, world={self.world!r})"


class NodeRun:
    """Drives the nodes of one strategy in one domain; one row at a time."""

    def __init__(
        self,
        strategy: Strategy,
        context: ExecutionContext,
        road: PublisherRoad,
        *,
        world: str | None,
        needs_history: bool,
    ) -> None:
        self.strategy = strategy
        self.world = world
        self.manager: Any = None
        self.nodes = _closure(strategy.nodes)
        self.streams = [one for one in self.nodes if isinstance(one, StreamInput)]
        for stream in self.streams:
            if needs_history and stream.history_provider is None:
                raise ValueError(f"{stream.node_id}: no history_provider to read start to end from")
        self._road = road
        self._engine = NodeEngine()
        self._lock = RLock()
        self._is_stopped = False
        self._following: list[Future[None]] = []
        symbol = runtime.settings().trader.symbol
        self.scope = Scope(context, symbol=symbol)
        if context.is_replay or context.domain in _SIMULATED:
            self.scope.simulation = Simulation(
                self.streams,
                lambda emissions: road.publish_all(emissions, self.scope),
                default_symbol=symbol,
                limits=configured_limits(),
            )
        self.scope.symbol_of = self._symbol_of
        self.result = SubmitResult(self)

    def _symbol_of(self, node: Node) -> str:
        """Return the instrument of the nearest stream above `node`, the configured one without any."""
        named = (stream.symbol for stream in upstream_sources(node))
        return next((symbol for symbol in named if symbol), self.scope.symbol)

    # --- rows --------------------------------------------------------------------------------------

    def feed(self, node: Node, queue_id: str, interval: object, row: Row, on_missing: str) -> Any:
        """Take one row; see Runner.feed_queue_data."""
        scope = self.scope
        with self._lock, execution.running(scope.context):
            if self._is_stopped:
                return None
            plan = self._engine.admit(node, queue_id, interval, row, on_missing)
            if plan is None:
                return None
            if scope.simulation is not None:
                return scope.simulation.take([(node, plan, row)])
            result, emissions = plan.walk(row)
            self._road.publish_all(emissions, scope)
            return result

    async def load(self, start: int, end: int, as_of: Any) -> list[tuple[StreamInput, Row]]:
        """Return the rows of every stream in [start, end), in the order in which they closed."""
        found: list[tuple[int, int, StreamInput, Row]] = []
        context = {**self._history_context(), "as_of": as_of}
        for place, stream in enumerate(self.streams):
            rows = await stream.fetch_rows(start, end, **context)
            found += [(row[0] + stream.grid_s, place, stream, row) for row in rows]
        found.sort(key=lambda one: one[:2])
        return [(stream, row) for _, _, stream, row in found]

    def replay(self, rows: Iterable[tuple[StreamInput, Row]]) -> None:
        """Let history happen on the simulated venue."""
        simulation = self.scope.simulation
        if simulation is None:
            return
        with self._lock, execution.running(self.scope.context):
            plans = {stream: self._engine.plan(stream) for stream in self.streams}
            simulation.take(
                (stream, plans[stream], row)
                for stream, row in rows
                if plans[stream].takes(row, stream.grid_s)
            )

    def _history_context(self) -> dict[str, Any]:
        return {"world_id": self.world, "execution_domain": self.scope.context.domain}

    async def warm_up(self) -> None:
        """Let the last rows before now through the nodes; the orders they would have led to are none."""
        for stream in self.streams:
            if stream.history_provider is not None:
                self._pass_by(stream, await stream.fetch_warmup(**self._history_context()))

    def _pass_by(self, stream: StreamInput, rows: Iterable[Row]) -> None:
        """Let rows of the past through the nodes, without orders."""
        with self._lock, execution.running(self.scope.context):
            for row in rows:
                plan = self._engine.admit(stream, "", stream.grid_s, row)
                if plan is not None:
                    plan.walk(row)

    # --- the present -------------------------------------------------------------------------------

    def follow(self) -> None:
        """Go on from the providers' live feeds, where they have one."""
        for stream in self.streams:
            provider = stream.history_provider
            feed = getattr(provider, "live_feed", None) or provider
            if hasattr(feed, "subscribe"):
                self._following.append(BACKGROUND.start(self._follow(stream, feed)))

    async def _follow(self, stream: StreamInput, feed: Any) -> None:
        import asyncio

        try:
            async for _, frame in feed.subscribe(stream.series or stream.node_id, stream.grid_s):
                for row in rows_of(frame, stream.node_id):
                    if row[1].get("closed", True):
                        await self._refill(stream, row[0])
                        await asyncio.to_thread(self.feed, stream, "", stream.grid_s, row, "skip")
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):
                _log.error(
                    "stream ended", node=stream.node_id, reason=str(error), action="shutdown raises it"
                )
            raise

    async def _refill(self, stream: StreamInput, ts: int) -> None:
        """Bring what the feed skipped: a row that comes by refill never trades."""
        last_ts = self._engine.plan(stream).last_ts
        if 0 <= last_ts < ts - stream.grid_s and hasattr(stream.history_provider, "fetch"):
            try:
                rows = await stream.fetch_rows(last_ts + stream.grid_s, ts, **self._history_context())
            except (SeamlessError, FetchError, StoreError, OSError) as error:
                _log.warning(
                    "gap not refilled", node=stream.node_id, reason=str(error), action="goes on after it"
                )
                return
            self._pass_by(stream, rows)

    def stop(self) -> None:
        """End feeds and gate; raises what ended a feed."""
        if self.scope.gate is not None:
            BACKGROUND.run(self.scope.gate.stop())
        for future in self._following:
            future.cancel()
        # A row that is being computed is let to its end.
        with self._lock:
            self._is_stopped = True
        failures = [f.exception() for f in self._following if f.done() and not f.cancelled()]
        self._following.clear()
        for failure in failures:
            if failure is not None:
                raise failure


def _closure(nodes: Iterable[Node]) -> dict[Node, None]:
    """Return `nodes` and all they read, in order; ValueError naming a stream without interval."""
    found: dict[Node, None] = {}
    waiting = list(nodes)
    for one in waiting:
        if one not in found:
            found[one] = None
            waiting += one.inputs
            if not one.grid_s:
                raise ValueError(f"{one.node_id}: interval is missing")
    return found
