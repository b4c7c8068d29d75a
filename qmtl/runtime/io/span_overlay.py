"""Laying new ranges over labelled spans: what a store's coverage and fences become with a write."""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from qmtl.core.ranges import Range, merge_ranges, subtract_ranges


class Span(NamedTuple):
    """A range with a label: (kind, time of the check) of coverage, (fence,) of fences."""

    start: int
    end: int
    label: tuple[str | int, ...]


def overlay_spans(
    spans: Iterable[Span],
    ranges: Sequence[Range],
    label: tuple[str | int, ...],
    *,
    below: Collection[str] = (),
) -> list[Span]:
    """Return sorted disjoint spans after `ranges` got `label`; neighbours of one label are one span.

    Spans whose label starts with one of `below` stay on top of the new ones.
    """
    wanted = merge_ranges(ranges)
    kept: list[Span] = []
    under: list[Span] = []
    for span in spans:
        (kept if span.label[0] in below else under).append(span)
    on_top = merge_ranges((span.start, span.end) for span in kept)
    result = kept + [Span(*piece, label) for piece in subtract_ranges(wanted, on_top)]
    starts, ends = [start for start, _ in wanted], [end for _, end in wanted]
    for span in under:
        over = wanted[bisect_right(ends, span.start) : bisect_left(starts, span.end)]
        result += [Span(*piece, span.label) for piece in subtract_ranges([(span.start, span.end)], over)]
    joined: list[Span] = []
    for span in sorted(result):
        if joined and joined[-1].end == span.start and joined[-1].label == span.label:
            joined[-1] = joined[-1]._replace(end=span.end)
        else:
            joined.append(span)
    return joined
