"""Labelled spans behave as a dictionary from numbers to labels."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from qmtl.core.ranges import Range
from qmtl.runtime.io.span_overlay import Span, overlay_spans

NUMBERS = st.integers(0, 40)
RANGES = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=4)
STEPS = st.lists(
    st.tuples(RANGES, st.sampled_from("abc"), st.lists(st.sampled_from("abc"), max_size=2)), max_size=6
)


@given(STEPS)
def test_laying_spans_is_assigning_numbers(steps: list[tuple[list[Range], str, list[str]]]) -> None:
    spans: list[Span] = []
    labels: dict[int, str] = {}
    for ranges, label, below in steps:
        spans = overlay_spans(spans, ranges, (label,), below=below)
        numbers = {number for start, end in ranges for number in range(start, end)}
        labels |= {number: label for number in numbers if labels.get(number) not in below}
        assert {n: str(span.label[0]) for span in spans for n in range(span.start, span.end)} == labels
        assert all(span.start < span.end for span in spans)
        for one, following in pairwise(spans):
            assert one.end < following.start or (one.end == following.start and one.label != following.label)
