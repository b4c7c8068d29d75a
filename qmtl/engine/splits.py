"""Walk-forward splits: parameters are chosen on the train rows and judged on the test rows after them."""

from math import ceil, inf
from typing import Literal, NamedTuple

Scheme = Literal["rolling", "anchored"]


class SplitError(ValueError):
    """There are too few rows for the splits asked for; the message says how many are needed."""


class Split(NamedTuple):
    """Rows [start, end) of the training and of the test that follows it."""

    train_start: int
    train_end: int
    test_start: int
    test_end: int

    @property
    def train(self) -> slice:
        """Rows to choose on."""
        return slice(self.train_start, self.train_end)

    @property
    def test(self) -> slice:
        """Rows to judge on."""
        return slice(self.test_start, self.test_end)


FEWEST = 2


def walk_forward(
    rows: int,
    count: int,
    *,
    scheme: Scheme = "rolling",
    train_share: float = 3.0,
    purge: int = 0,
    embargo: int = 0,
) -> list[Split]:
    """Return `count` splits whose tests lie end to end up to the last row.

    A training is `train_share` times as long as a test; "rolling" moves it along, "anchored" begins it at row
    0 every time. `purge` rows before each test are taken from its training, so that no trade of one reaches
    into the other; `embargo` rows after that are not tested, so that no indicator still sees the training.
    SplitError when a training or a test would have fewer than two rows.
    """
    if count < 1 or purge < 0 or embargo < 0 or not 0 < train_share < inf:
        raise SplitError(
            f"splits {count}, purge {purge}, embargo {embargo}, train {train_share:g}: out of range"
        )
    length = int(rows / (count + train_share))
    first = rows - count * length
    splits = []
    for number in range(count):
        test = first + number * length
        begin = 0 if scheme == "anchored" else number * length
        splits.append(Split(begin, test - purge, test + embargo, test + length))
    shortest = min(min(s.train_end - s.train_start, s.test_end - s.test_start) for s in splits)
    if shortest < FEWEST:
        needed = ceil(max((purge + FEWEST) / train_share, embargo + FEWEST) * (count + train_share)) + 1
        raise SplitError(f"{rows:,} bars are too few for {count} splits; at least {needed:,} are needed")
    return splits
