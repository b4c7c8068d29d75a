"""Range algebra beside a bare loop: `python -m bench.range_algebra` (seamless.md §16, item 15).

Merging 100,000 sorted ranges takes at most 10 times a loop that only looks at them (ratio of rates at least
0.1); subtracting 8,000 takes at most 12 times subtracting 1,000 (ratio of rates at least 1/12).
"""

from collections.abc import Callable

from bench.measure import compare, write
from qmtl.core.ranges import Range, intersect_ranges, merge_ranges, subtract_ranges

COUNT = 100_000
REPEATS = 8
"""Runs of the small subtraction for one of the large, so that both take long enough to time."""


def look(ranges: list[Range]) -> int:
    """Count the ranges that touch the one before: the least that merging has to do."""
    touching, last_end = 0, -1
    for start, end in ranges:
        if start <= last_end:
            touching += 1
        last_end = end
    return touching


def subtraction(count: int, repeats: int) -> Callable[[], None]:
    ranges = [(n * 10, n * 10 + 9) for n in range(count)]
    holes = [(n * 10 + 3, n * 10 + 5) for n in range(count)]

    def work() -> None:
        for _ in range(repeats):
            subtract_ranges(ranges, holes)

    return work


def main() -> None:
    """Print and record every figure."""
    apart = [(n * 10, n * 10 + 9) for n in range(COUNT)]
    touching = [(n * 10, n * 10 + 10) for n in range(COUNT)]
    figures = [
        compare(
            f"merge 100,000 sorted ranges, {name}",
            lambda ranges=ranges: merge_ranges(ranges),  # type: ignore[misc]  # bound by the default
            lambda ranges=ranges: look(ranges),  # type: ignore[misc]
            count=COUNT,
            anchor_name="bare loop",
            unit="ranges",
        )
        for name, ranges in (("apart", apart), ("touching", touching))
    ]
    figures.append(
        compare(
            "intersect 100,000 with 100,000",
            lambda: intersect_ranges(apart, touching),
            lambda: look(apart),
            count=COUNT,
            anchor_name="bare loop",
            unit="ranges",
        )
    )
    figures.append(
        compare(
            "subtract 8,000 holes",
            subtraction(8_000, REPEATS),
            subtraction(1_000, REPEATS),
            count=REPEATS,
            anchor_name="subtract 1,000 holes",
            unit="subtractions",
        )
    )
    write("range_algebra", figures)


if __name__ == "__main__":
    main()
