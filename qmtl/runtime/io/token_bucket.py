"""A token bucket with a barrier: the arithmetic that the local buckets and the Redis script share."""

from math import ceil


class TokenBucket:
    """Tokens of one key; whoever takes brings the rate, so that sharers may differ.

    Times are milliseconds of one clock. A new bucket is full unless `tokens` says otherwise.
    """

    def __init__(self, tokens: float | None = None) -> None:
        self._left = tokens
        self._read_ms: float | None = None
        self.block_until_ms = 0.0

    @property
    def tokens(self) -> float:
        """Tokens left when the bucket was last looked at."""
        return self._left or 0.0

    def take(self, now_ms: float, rate: float | None, capacity: float) -> float:
        """Take one token and return 0, or take nothing and return the milliseconds until it may be there.

        `rate` is tokens a second, None for any number of them; `capacity` the most the bucket holds.
        """
        if now_ms < self.block_until_ms:
            return self.block_until_ms - now_ms
        if rate is None:
            return 0.0
        if self._left is None:
            self._left = capacity
        elif self._read_ms is not None:
            passed_ms = max(0.0, now_ms - self._read_ms)
            self._left = min(capacity, self._left + passed_ms * rate / 1000)
        self._read_ms = now_ms
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return float(ceil((1 - self._left) * 1000 / rate))

    def block(self, until_ms: float) -> None:
        """Give nothing before `until_ms`; a barrier that stands longer stays."""
        self.block_until_ms = max(self.block_until_ms, until_ms)
