"""From a publisher's payload to a broker: the seven steps every order of a node strategy takes."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from math import isfinite
from typing import Any

import structlog

from qmtl.engine.intents import symbol_key
from qmtl.engine.ports import Clock, Reach
from qmtl.runtime.sdk.activation import ActivationManager
from qmtl.runtime.sdk.brokerage import execution
from qmtl.runtime.sdk.brokerage.execution import ExecutionContext
from qmtl.runtime.sdk.brokerage.order_road import OrderRoad
from qmtl.runtime.sdk.brokerage.result import DomainViolation, InstrumentBlocked, RiskRefused
from qmtl.runtime.sdk.dedup import OrderDedup, dedup_key
from qmtl.runtime.sdk.node_engine import Emission
from qmtl.runtime.sdk.node_simulation import Simulation
from qmtl.runtime.sdk.nodes.base import Node
from qmtl.runtime.sdk.order_sink import (
    NOT_TAKEN,
    OrderSink,
    Payload,
    RecordedSink,
    RecordingDesk,
    ServiceSink,
    SimulatedSink,
)

REACHES: frozenset[Reach] = frozenset({"memory", "sandbox", "live"})
_log = structlog.get_logger("qmtl.runner")


class Scope:
    """What one run brings to the road: context, simulation, gate, instrument, and what it sent lately."""

    def __init__(
        self,
        context: ExecutionContext,
        *,
        symbol: str = "",
        simulation: Simulation | None = None,
        gate: Any = None,
    ) -> None:
        self.context = context
        self.symbol = symbol
        self.simulation = simulation
        self.gate = gate
        self.dedup = OrderDedup()
        self.symbol_of: Callable[[Node], str] = lambda _: self.symbol
        """The instrument of a publisher whose orders name none."""

    @property
    def is_unset(self) -> bool:
        """Tell whether nobody said in which domain this runs."""
        return self.context.domain is None and not self.context.is_replay


class PublisherRoad:
    """Decides what becomes of a publisher's result; `counts` says how often which way.

    `service` is the sink: a shipped client, anything that declares a `reach`, or anything with
    `post_order`, which counts as live once a domain is set.
    """

    def __init__(self, clock: Clock, desk: RecordingDesk, shadow: RecordingDesk) -> None:
        self.service: Any = None
        self.gate: Any = None
        self.is_enabled = True
        self.counts: Counter[str] = Counter()
        self.desk = desk
        self.shadow = shadow
        self._clock = clock
        self._told: set[tuple[Node, str]] = set()
        self._worker: ThreadPoolExecutor | None = None
        self._running: list[Future[None]] = []

    def publish_all(self, emissions: Sequence[Emission], scope: Scope) -> None:
        """Publish each; one that fails stops no other, and the first error reaches the caller."""
        failure: Exception | None = None
        for emission in emissions:
            try:
                self.publish(emission, scope)
            except Exception as error:  # noqa: BLE001 - raised below, after the others had their turn
                failure = failure or error
        if failure is not None:
            raise failure

    def publish(self, emission: Emission, scope: Scope) -> None:
        """Take what a publisher computed; a sink's error reaches the caller.

        Inside a running event loop orders that leave the process go on from a thread of their own, in
        order; an error of theirs reaches the next caller.
        """
        node, payload = emission
        service = self.service
        is_declared = getattr(service, "reach", None) in REACHES
        if not self.is_enabled:
            self.counts["disabled"] += 1
            return
        if not isinstance(payload, Mapping) or payload.get("rejected"):
            self.counts["dropped"] += 1
            return
        if not payload.get("side") and (service is None or is_declared):
            self.counts["no_side"] += 1
            return
        sink = self._choose(node, scope, is_declared=is_declared)
        if sink is None:
            return
        context = ExecutionContext(scope.context.domain, scope.context.is_replay, latest_close(node))
        stays = isinstance(sink, SimulatedSink) or getattr(service, "reach", None) == "memory"
        failure = self._find_failure()
        with execution.running(context):
            if not stays and _is_in_loop():
                if self._worker is None:
                    self._worker = ThreadPoolExecutor(1, "qmtl-orders")
                run = copy_context().run
                self._running.append(self._worker.submit(run, self._deliver, node, payload, scope, sink))
            else:
                self._deliver(node, payload, scope, sink)
        if failure is not None:
            raise failure

    def _choose(self, node: Node, scope: Scope, *, is_declared: bool) -> OrderSink | None:
        """Step 3: return where orders of this domain go."""
        service, domain, is_replay = self.service, scope.context.domain, scope.context.is_replay
        if service is not None:
            reach: Reach = service.reach if is_declared else "live"
            if scope.is_unset:
                if is_declared and reach == "live":
                    name = type(service).__name__
                    raise DomainViolation(f"no execution domain is set, and {name} reaches a live venue")
                return ServiceSink(service)
            if execution.is_allowed(domain or "backtest", reach, is_replay=is_replay):
                if isinstance(service, OrderRoad):
                    return ServiceSink(service)
                return RecordedSink(service, self.shadow if reach == "memory" else self.desk, reach)
            self._count(node, "skipped_domain", f"domain {domain or 'replay'} has no {reach} orders")
        if scope.simulation is not None:
            return SimulatedSink(scope.simulation)
        if domain == "shadow" and not is_replay:
            return RecordedSink(None, self.shadow)
        if service is None:
            self._count(node, "no_service", "no trade execution service is set")
        return None

    def _deliver(self, node: Node, payload: Payload, scope: Scope, sink: OrderSink) -> None:
        """Steps 4 to 7: gate, risk, dedup, sink."""
        gate = scope.gate if scope.gate is not None else self.gate
        symbol = scope.symbol_of(node)
        if gate is not None and (reason := ask_gate(gate, payload, symbol, sink)):
            self.counts["denied"] += 1
            _log.warning("order denied", node=node.node_id, reason=reason, action="see its activation")
            return
        key = None
        try:
            sink.admit(payload, symbol)
            key = dedup_key(payload)
            if key is not None and not scope.dedup.reserve(key, self._clock.real_ms()):
                self.counts["duplicate"] += 1
                return
            is_taken = sink.send(payload)
        except (RiskRefused, InstrumentBlocked) as refused:
            code = refused.code if isinstance(refused, RiskRefused) else "instrument_blocked"
            self.counts[f"refused:{code}"] += 1
            _log.warning("order refused", node=node.node_id, code=code, reason=str(refused), action="dropped")
            is_taken = False
        except NOT_TAKEN:
            if key is not None:
                scope.dedup.release(key)
            raise
        if is_taken:
            self.counts["sent"] += 1
        elif key is not None:
            scope.dedup.release(key)

    def _count(self, node: Node, what: str, reason: str) -> None:
        """Count a skipped order; the log says it once per node."""
        self.counts[what] += 1
        if (node, what) not in self._told:
            self._told.add((node, what))
            _log.warning("order skipped", node=node.node_id, reason=reason, action="counted from here on")

    def _find_failure(self, *, waits: bool = False) -> BaseException | None:
        """Return the error of the first order that failed on the other thread and was not told yet."""
        while self._running and (waits or self._running[0].done()):
            failure = self._running.pop(0).exception()
            if failure is not None:
                return failure
        return None

    def settle(self) -> None:
        """Let orders on their way end; raises the first error among them."""
        failure = self._find_failure(waits=True)
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Let orders on their way end and forget what was told; raises the first error among them."""
        try:
            self.settle()
        finally:
            self._told.clear()
            worker, self._worker = self._worker, None
            if worker is not None:
                worker.shutdown()


def ask_gate(gate: Any, payload: Payload, symbol: str, sink: OrderSink) -> str:
    """Return why the activation gate denies an order, "" when it allows it; whatever fails denies."""
    side = payload.get("side")
    if not side:
        return "the order has no side"
    try:
        if not hasattr(gate, "allow_order"):
            return "" if gate.allow_side(side) is True else f"{side} is not active"
        held = sink.position(symbol_key(str(payload.get("symbol") or symbol)))
        if isinstance(gate, ActivationManager):
            return gate.explain(payload, held, is_spot=sink.is_spot)
        return "" if gate.allow_order(payload, held) is True else f"{side} is not allowed"
    except Exception as error:  # noqa: BLE001 - the gate fails closed
        return f"the gate failed: {type(error).__name__}: {error}"


def latest_close(node: Node) -> float | None:
    """Return the newest close above `node`, nearest first: the price an order without one is measured at."""
    seen, waiting = {node}, [node]
    for one in waiting:
        for edge in one.edges:
            payload = edge.last[1] if edge.last is not None else None
            close = payload.get("close") if isinstance(payload, Mapping) else None
            if isinstance(close, int | float) and isfinite(close) and close > 0:
                return float(close)
            if edge.source not in seen:
                seen.add(edge.source)
                waiting.append(edge.source)
    return None


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
