"""What a strategy author writes."""

from collections.abc import Iterable
from typing import Any

from qmtl.runtime.sdk.nodes.base import Node


class Strategy:
    """Base of node strategies: `setup` makes the nodes and hands them to `add_nodes`."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def setup(self) -> None:
        """Make the nodes of the strategy; override it."""

    def add_nodes(self, *nodes: Node | Iterable[Any]) -> None:
        """Add nodes, however nested the lists that hold them.

        ValueError naming a node without interval or period, or what is no node.
        """
        for one in _flatten(nodes):
            if not isinstance(one, Node):
                raise ValueError(f"add_nodes: expected nodes, got {one!r}")
            for field in ("interval", "period"):
                if getattr(one, field) is None:
                    raise ValueError(f"{one.node_id}: {field} is missing")
            if one not in self.nodes:
                self.nodes.append(one)


def _flatten(given: Iterable[Any]) -> Iterable[Any]:
    for one in given:
        if isinstance(one, list | tuple | set | frozenset):
            yield from _flatten(one)
        else:
            yield one
