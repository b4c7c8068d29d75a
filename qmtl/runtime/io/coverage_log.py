"""Coverage kept as upserted marks: what of them counts, and which marks a write adds.

A store that cannot delete keeps one row per (start, kind); a later mark replaces the one with its start and
kind. So a series that grows at its end keeps rewriting the same few marks, whatever its length.
"""

import heapq
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from qmtl.core.ranges import Range, clip_ranges, merge_ranges, subtract_ranges

FENCE = "fence"
"""Kind of the marks that remember fences; `stamp` is the fence. They are settled apart from coverage."""
_HELD = {"rows": (), "young": ("rows",), "empty": ("rows",), "empty_24h": ("rows", "empty"), FENCE: ()}
_STAMPED = frozenset({"empty_24h", FENCE})


class Mark(NamedTuple):
    """[start, end) is of `kind` since `stamp` (epoch seconds); among several, rows win, else the newest."""

    start: int
    end: int
    kind: str
    stamp: int


def settle_marks(marks: Iterable[Mark]) -> list[Mark]:
    """Return what counts as sorted disjoint marks; neighbours that mean the same are one.

    Of `empty_24h` and fences the stamp is part of the meaning; else a joined mark has the newest.
    """
    ordered = sorted(mark for mark in marks if mark.start < mark.end)
    edges = sorted({edge for mark in ordered for edge in mark[:2]})
    settled: list[Mark] = []
    open_marks: list[tuple[tuple[bool, int, str], int, Mark]] = []
    at = 0
    for start, end in itertools.pairwise(edges):
        while at < len(ordered) and ordered[at].start == start:
            mark = ordered[at]
            rank = (mark.kind != "rows", -mark.stamp, mark.kind)
            heapq.heappush(open_marks, (rank, at, mark))
            at += 1
        while open_marks and open_marks[0][2].end <= start:
            heapq.heappop(open_marks)
        if open_marks:
            _, _, top = open_marks[0]
            _append(settled, Mark(start, end, top.kind, top.stamp))
    return settled


def lay_marks(marks: Sequence[Mark], ranges: Iterable[Range], kind: str, stamp: int) -> list[Mark]:
    """Return the marks to upsert so that `ranges` become `kind`; `marks` are all those stored, of one series.

    Rows stay rows, and what is empty for good is not marked as empty for a day. Fences are laid by
    themselves: `marks` are then the fence marks.
    """
    before = settle_marks(marks)
    held = [(mark.start, mark.end) for mark in before if mark.kind in _HELD[kind]]
    wanted = subtract_ranges(merge_ranges(ranges), held)
    if kind not in _STAMPED:
        same = [(mark.start, mark.end) for mark in before if mark.kind == kind]
        if not subtract_ranges(wanted, same):
            return []
        wanted = _grow(wanted, same)
    if kind != FENCE:
        # Newer than all that it covers, also within one second.
        covered = (mark.stamp for mark in marks if mark.kind != kind and clip_ranges(wanted, *mark[:2]))
        stamp = max([stamp, *(older + 1 for older in covered)])
    added = [Mark(start, end, kind, stamp) for start, end in wanted]
    if kind == "young":
        # Rows lie on top, so a young mark may start where the rows before it do, and keeps that start.
        starts = {mark.end: mark.start for mark in before if mark.kind == "rows"}
        added = [mark._replace(start=starts.get(mark.start, mark.start)) for mark in added]
    return _keep_rest(marks, before, added)


def _append(settled: list[Mark], mark: Mark) -> None:
    last = settled[-1] if settled else None
    if last is None or last.end != mark.start or last.kind != mark.kind:
        settled.append(mark)
    elif last.stamp == mark.stamp or mark.kind not in _STAMPED:
        settled[-1] = Mark(last.start, mark.end, mark.kind, max(last.stamp, mark.stamp))
    else:
        settled.append(mark)


def _grow(wanted: Sequence[Range], same: Sequence[Range]) -> list[Range]:
    """Return `wanted`, each joined with those of `same` that it overlaps or touches."""
    both = merge_ranges([*wanted, *same])
    at, grown = 0, []
    for start, end in both:
        while at < len(wanted) and wanted[at][1] <= start:
            at += 1
        if at < len(wanted) and wanted[at][0] < end:
            grown.append((start, end))
    return grown


def _keep_rest(marks: Sequence[Mark], before: Sequence[Mark], added: Sequence[Mark]) -> list[Mark]:
    """Return `added` and what is left of longer marks that they replace by their start and kind."""
    stored = {(mark.start, mark.kind): mark for mark in marks}
    new = merge_ranges(mark[:2] for mark in added)
    result: dict[tuple[int, str], Mark] = {}
    waiting = list(added)
    while waiting:
        mark = waiting.pop()
        known = result.get((mark.start, mark.kind))
        if known is not None and known.end >= mark.end:
            continue
        result[mark.start, mark.kind] = mark
        replaced = stored.pop((mark.start, mark.kind), None)
        if replaced is None or replaced.end <= mark.end:
            continue
        for rest in before:
            if rest.kind != mark.kind:
                continue
            pieces = clip_ranges([(rest.start, rest.end)], mark.end, replaced.end)
            waiting += [Mark(*piece, rest.kind, rest.stamp) for piece in subtract_ranges(pieces, new)]
    return sorted(result.values())
