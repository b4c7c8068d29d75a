"""How a row travels through the nodes that read it."""

from collections.abc import Iterator, Sequence
from typing import Any

from qmtl.runtime.sdk.nodes.base import Compute, Edge, Node, Row, parse_interval_s
from qmtl.runtime.sdk.nodes.sources import StreamInput

PUBLISHER = "TradeOrderPublisher"
"""A node whose class name contains this gives orders."""

ON_MISSING = ("skip", "fail")

Emission = tuple[Node, Any]
"""A publisher and what it computed."""


def is_publisher(node: Node) -> bool:
    """Tell whether the results of `node` are orders."""
    return PUBLISHER in type(node).__name__


def upstream_sources(node: Node) -> list[StreamInput]:
    """Return the streams `node` is computed from, each once, nearest first."""
    found: dict[StreamInput, None] = {}
    waiting = [node]
    for one in waiting:
        if isinstance(one, StreamInput):
            found[one] = None
        waiting += [parent for parent in one.inputs if parent not in waiting]
    return list(found)


class NodePlan:
    """The nodes below one fed node in an order in which each comes after everything it reads.

    Rows are pushed to `edges`, then `walk` computes; nodes added later make another plan necessary.
    """

    def __init__(self, node: Node, edges: list[Edge]) -> None:
        self.edges = edges
        self._nodes: list[tuple[Node, Compute, bool, tuple[Edge, ...]]] = []
        targets = list(dict.fromkeys(edge.target for edge in edges))
        self._node = node if node in targets else None
        for one in _sorted_below(targets):
            if one.compute_fn is not None:
                self._nodes.append((one, one.compute_fn, is_publisher(one), tuple(one.edges)))
        self._filling = {one for one, *_ in self._nodes if not all(edge.is_full for edge in one.edges)}

    @property
    def last_ts(self) -> int:
        """Time of the newest row fed, -1 before the first."""
        return self.edges[0].last_ts if self.edges else -1

    def takes(self, row: Row, grid_s: int) -> bool:
        """Tell whether `row` may be computed on; a row after a gap is kept, one that is not new dropped."""
        ts, last_ts = row[0], self.edges[0].last_ts if self.edges else -1
        if ts - last_ts == grid_s or (last_ts < 0 <= ts):
            return True
        if ts > last_ts + grid_s:
            for edge in self.edges:
                edge.push(row)
            return False
        return ts > last_ts

    @property
    def is_warm(self) -> bool:
        """Tell whether every node has had its whole period."""
        return not self._filling

    def walk(self, row: Row) -> tuple[Any, Sequence[Emission]]:
        """Push `row` and compute what has news by it; return the fed node's own result and the orders."""
        for edge in self.edges:
            edge.push(row)
            edge.target.has_news = True
        own: Any = None
        emissions: Sequence[Emission] = ()
        filling = self._filling
        for node, compute, is_order, edges in self._nodes:
            if not node.has_news:
                continue
            node.has_news = False
            if filling and node in filling:
                if not all(edge.is_full for edge in edges):
                    continue
                filling.discard(node)
            result = compute(node.view)
            if node is self._node:
                own = result
            if result is None:
                continue
            if is_order:
                emissions = (*emissions, (node, result))
            news = (row[0], result)
            for edge in node.readers:
                edge.push(news)
                edge.target.has_news = True
        return own, emissions


class NodeEngine:
    """Lets rows into the nodes: keeps time ascending, notices gaps, and knows each row's way."""

    def __init__(self) -> None:
        self._plans: dict[tuple[Node, str], NodePlan] = {}
        self._edges = Edge.made

    def plan(self, node: Node, queue_id: str = "") -> NodePlan:
        """Return where rows of `queue_id` fed to `node` go; ValueError naming a queue the node has not."""
        key = (node, queue_id if node.inputs else "")
        if self._edges != Edge.made:
            self._plans.clear()
            self._edges = Edge.made
        plan = self._plans.get(key)
        if plan is None:
            edges = [_edge_of(node, queue_id)] if node.inputs else list(node.readers)
            plan = self._plans[key] = NodePlan(node, edges)
        return plan

    def admit(
        self, node: Node, queue_id: str, interval: object, row: Row, on_missing: str = "skip"
    ) -> NodePlan | None:
        """Return the way of a row that may be computed on, None for one that may not.

        A row that is not after the one before it is dropped. One that comes after a gap is kept and, with
        `skip`, not computed on; `fail` raises RuntimeError naming node and gap. ValueError names a wrong
        interval, queue or `on_missing`.
        """
        if on_missing not in ON_MISSING:
            raise ValueError(f'on_missing: expected "skip" or "fail", got {on_missing!r}')
        given_s = parse_interval_s(interval)
        plan = self.plan(node, queue_id)
        grid_s = node.grid_s if not node.inputs else plan.edges[0].interval
        if grid_s and given_s != grid_s:
            raise ValueError(f"{node.node_id}: interval is {grid_s} s, fed with {given_s} s")
        ts = row[0]
        last_ts = plan.last_ts
        if ts <= last_ts:
            return None
        if 0 <= last_ts < ts - given_s:
            if on_missing == "fail":
                raise RuntimeError(
                    f"{node.node_id}: gap in {queue_id}: nothing in [{last_ts + given_s}, {ts})"
                )
            for edge in plan.edges:
                edge.push(row)
            return None
        return plan


def _edge_of(node: Node, queue_id: str) -> Edge:
    edge = node.view.get(queue_id)
    if edge is None:
        if len(node.edges) > 1:
            names = ", ".join(one.source.node_id for one in node.edges)
            raise ValueError(f"{node.node_id}: reads no queue {queue_id!r}; it reads {names}")
        # A node with one upstream is read by the queue's own name too.
        edge = node.view[queue_id] = node.edges[0]
    return edge


def _sorted_below(roots: list[Node]) -> Iterator[Node]:
    """Yield `roots` and everything below them, each after all of its inputs that are below too."""
    below: dict[Node, None] = {}
    waiting = list(roots)
    for one in waiting:
        if one not in below:
            below[one] = None
            waiting += [edge.target for edge in one.readers]
    done: set[Node] = set()
    while len(done) < len(below):
        for one in below:
            if one not in done and all(p in done or p not in below for p in one.inputs):
                done.add(one)
                yield one
