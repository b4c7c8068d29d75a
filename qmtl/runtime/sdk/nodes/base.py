"""What every node of a strategy is: a name, a grid, the nodes it reads, and the rows they gave it."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Row = tuple[int, Any]
"""Time in epoch seconds (the open of a bar) and what came at it."""

_INTERVAL = re.compile(r"^([1-9][0-9]*)([smhdw])\Z")
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def parse_interval_s(value: object) -> int:
    """Return seconds of an interval given as int, "60s" or "1m" (s, m, h, d, w); ValueError otherwise."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = _INTERVAL.match(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f'interval: expected seconds, "60s" or "1m", got {value!r}')
    return int(match[1]) * _UNIT_S[match[2]]


def is_whole(value: object, *, least: int) -> bool:
    """Tell whether `value` is a whole number of at least `least`; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


class Edge:
    """The last rows one node got from another; `edge[interval]` is a list of (ts, payload), newest last."""

    __slots__ = ("_kept", "_limit", "_rows", "interval", "last_ts", "period", "source", "target")
    made = 0
    """How many there ever were: whoever planned a way through the nodes sees that there are new ones."""

    def __init__(self, source: "Node", target: "Node") -> None:
        Edge.made += 1
        self.source, self.target = source, target
        self.interval = source.grid_s
        self._rows: list[Row] = []
        self.use(target.length)

    def use(self, period: int) -> None:
        """Keep `period` rows and forget what came so far."""
        self.period = period
        # Old rows go in batches: deleting the first of a list moves all others.
        self._kept, self._limit = max(1, period - 1), 2 * period + 64
        self._rows.clear()
        self.last_ts = -1

    def push(self, row: Row) -> None:
        """Take the next row."""
        rows = self._rows
        rows.append(row)
        self.last_ts = row[0]
        if len(rows) > self._limit:
            del rows[: -self._kept - 1]

    def extend(self, rows: Sequence[Row]) -> None:
        """Take rows that follow each other; of many only the last are kept."""
        if rows:
            self._rows.extend(rows[-self._limit :])
            del self._rows[: -self._limit]
            self.last_ts = rows[-1][0]

    @property
    def is_full(self) -> bool:
        """Tell whether a whole period came."""
        return len(self._rows) >= self.period

    @property
    def last(self) -> Row | None:
        """The newest row, None before the first."""
        return self._rows[-1] if self._rows else None

    def __getitem__(self, interval: object) -> list[Row]:
        if interval != self.interval and parse_interval_s(interval) != self.interval:
            raise KeyError(f"{self.source.node_id} has interval {self.interval}, not {interval!r}")
        return self._rows[-self.period :]


class View(dict[object, Edge]):
    """What a compute function reads: `view[node][interval]`, node being the object, its name or its id.

    It always shows the present; copy what you want to keep.
    """

    def __missing__(self, node: object) -> Edge:
        known = ", ".join(sorted({edge.source.node_id for edge in self.values()}))
        raise KeyError(f"no node {getattr(node, 'node_id', node)!r} is read here; read: {known}")


Compute = Callable[[View], Any]


class Node:
    """One node: reads `inputs`, gives a row per interval; `execution_domain` overrides the Runner's.

    `interval` is in seconds ("60s", "1m" are taken too), `period` a number of rows of history. Either may
    be missing until the node joins a strategy.
    """

    compute_fn: Compute | None = None

    def __init__(
        self,
        inputs: Iterable["Node"] = (),
        *,
        name: str | None = None,
        interval: int | str | None = None,
        period: int | None = None,
        execution_domain: str | None = None,
    ) -> None:
        if period is not None and not is_whole(period, least=1):
            raise ValueError(f"period: expected a whole number of at least 1, got {period!r}")
        self.name = name
        self.interval = None if interval is None else parse_interval_s(interval)
        self.period = period
        self.inputs = tuple(inputs)
        self.execution_domain = execution_domain
        self.has_news = False
        self.readers: list[Edge] = []
        self.edges = [Edge(one, self) for one in self.inputs]
        self.view = View()
        for edge in self.edges:
            one = edge.source
            one.readers.append(edge)
            self.view |= {one: edge, one.node_id: edge, one.name or one.node_id: edge}

    @property
    def node_id(self) -> str:
        """The name people and messages use; the class's name where none was given."""
        return self.name or type(self).__name__

    @property
    def grid_s(self) -> int:
        """Interval in seconds, that of the first input where none was given."""
        if self.interval is None:
            return self.inputs[0].grid_s if self.inputs else 0
        return self.interval

    @property
    def length(self) -> int:
        """Rows of history kept of each input, at least 1."""
        return 1 if self.period is None else self.period

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.node_id!r}, interval={self.interval}, period={self.period})"
