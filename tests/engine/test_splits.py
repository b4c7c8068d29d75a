"""Walk-forward splits: tests end to end, trainings before them, nothing shared."""

from itertools import pairwise
from typing import Any

import pytest

from qmtl.engine.splits import Split, SplitError, walk_forward


@pytest.mark.parametrize("scheme", ["rolling", "anchored"])
@pytest.mark.parametrize(("purge", "embargo"), [(0, 0), (5, 3)])
def test_tests_follow_each_other_and_no_row_is_trained_and_tested(
    scheme: str, purge: int, embargo: int
) -> None:
    splits = walk_forward(1_003, 6, scheme=scheme, purge=purge, embargo=embargo)  # type: ignore[arg-type]
    assert len(splits) == 6
    assert splits[-1].test_end == 1_003
    for split in splits:
        assert split.train_end == split.test_start - embargo - purge
        assert 0 <= split.train_start < split.train_end
        assert range(1_003)[split.train].stop == split.train_end
    for before, after in pairwise(splits):
        assert after.test_start - embargo == before.test_end
        begins = (
            0
            if scheme == "anchored"
            else before.train_start + (before.test_end - before.test_start + embargo)
        )
        assert after.train_start == begins


def test_a_training_is_as_many_tests_long_as_asked_for() -> None:
    assert walk_forward(900, 6, train_share=3) == [
        Split(number * 100, 300 + number * 100, 300 + number * 100, 400 + number * 100) for number in range(6)
    ]
    assert walk_forward(900, 1, train_share=8)[0] == Split(0, 800, 800, 900)


def test_too_few_rows_and_impossible_numbers_are_told() -> None:
    with pytest.raises(SplitError, match=r"10 bars are too few for 6 splits; at least \d+ are needed"):
        walk_forward(10, 6)
    with pytest.raises(SplitError, match="needed") as error:
        walk_forward(1_000, 4, purge=900)
    needed = int(str(error.value).split("at least ")[1].split(" ")[0].replace(",", ""))
    assert walk_forward(needed, 4, purge=900)
    # A training shorter than a test is what the rows are too few for, and what is needed is enough.
    for purge, embargo in ((60, 0), (60, 60), (0, 5)):
        with pytest.raises(SplitError, match="needed") as error:
            walk_forward(40, 7, train_share=0.3, purge=purge, embargo=embargo)
        needed = int(str(error.value).split("at least ")[1].split(" ")[0].replace(",", ""))
        assert len(walk_forward(needed, 7, train_share=0.3, purge=purge, embargo=embargo)) == 7
    endless = float("inf")
    impossible: tuple[dict[str, Any], ...] = (
        {"count": 0}, {"count": 3, "purge": -1}, {"count": 3, "train_share": 0},
        {"count": 3, "train_share": endless},
    )  # fmt: skip
    for bad in impossible:
        with pytest.raises(SplitError, match="out of range"):
            walk_forward(1_000, **bad)
