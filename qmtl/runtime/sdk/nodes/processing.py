"""Nodes that compute."""

from collections.abc import Iterable, Mapping

from qmtl.runtime.sdk.nodes.base import Compute, Node


class ProcessingNode(Node):
    """Calls `compute_fn(view)` at each row of an input once every input gave a whole period.

    What it returns goes to the nodes that read this one; None goes nowhere. It is called once per row, so
    a node with two inputs computes at each of them. ValueError without any upstream.
    """

    def __init__(
        self,
        input: Node | Iterable[Node] | Mapping[str, Node] | None,  # noqa: A002 - the published name
        compute_fn: Compute | None = None,
        name: str | None = None,
        interval: int | str | None = None,
        period: int | None = None,
        *,
        execution_domain: str | None = None,
    ) -> None:
        inputs = _flatten(input)
        label = name or type(self).__name__
        if not inputs:
            raise ValueError(f"{label}: a processing node needs at least one upstream node")
        for one in inputs:
            if not isinstance(one, Node):
                raise ValueError(f"{label}: expected nodes as input, got {one!r}")
        if compute_fn is not None:
            self.compute_fn = compute_fn
        super().__init__(
            inputs, name=name, interval=interval, period=period, execution_domain=execution_domain
        )


def _flatten(given: Node | Iterable[Node] | Mapping[str, Node] | None) -> tuple[Node, ...]:
    if given is None:
        return ()
    if isinstance(given, Node):
        return (given,)
    return tuple(given.values() if isinstance(given, Mapping) else given)
