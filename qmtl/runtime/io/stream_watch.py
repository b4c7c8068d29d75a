"""Which streams are fresh: told by data, not by pongs."""

from collections.abc import Callable

import msgspec

from qmtl.core.event import FeedStateChanged
from qmtl.engine.ports import Clock

_SILENT_AFTER = 3.0
_NEVER_UNDER_S = 3.0


class _Stream(msgspec.Struct):
    limit_ms: float | None
    heard_ms: float = 0.0
    is_fresh: bool = False


class StreamWatch:
    """Keeps the age of every stream and tells each change of freshness once, through `put`.

    A stream is silent after three times its expected interval (exchange time over the clock's speed), never
    under 3 s of real time. Ages are real time.
    """

    def __init__(
        self, clock: Clock, put: Callable[[FeedStateChanged], None], now_ms: Callable[[], int]
    ) -> None:
        self._clock = clock
        self._put = put
        self._now_ms = now_ms
        self._streams: dict[str, _Stream] = {}

    def add(self, name: str, every_s: float | None) -> None:
        """Watch a stream that speaks every `every_s` seconds of exchange time; None: it may be silent."""
        limit_ms = None
        if every_s is not None:
            limit_ms = max(_NEVER_UNDER_S, _SILENT_AFTER * every_s / self._clock.speed) * 1000
        self._streams[name] = _Stream(limit_ms)

    def start(self) -> None:
        """Tell every stream stale: nothing was heard yet."""
        for name, stream in self._streams.items():
            stream.heard_ms = self._clock.real_ms()
            self._tell(name, stream, is_fresh=False, reason="connecting")

    def restart(self) -> None:
        """Count silence from now on: a connection has just been made."""
        for stream in self._streams.values():
            stream.heard_ms = self._clock.real_ms()

    def heard(self, name: str, *, is_caught_up: bool = True) -> None:
        """Take note of data; the stream is fresh once it is caught up."""
        stream = self._streams[name]
        stream.heard_ms = self._clock.real_ms()
        if is_caught_up and not stream.is_fresh:
            self._tell(name, stream, is_fresh=True, reason="")

    def told(self, name: str, reason: str) -> None:
        """Take note that a stream is down."""
        stream = self._streams[name]
        if stream.is_fresh:
            self._tell(name, stream, is_fresh=False, reason=reason)

    def find_silent(self) -> str:
        """Tell streams stale that fell silent; return why the connection should be made anew, or nothing."""
        now_ms, why = self._clock.real_ms(), ""
        for name, stream in self._streams.items():
            if stream.limit_ms is None or now_ms - stream.heard_ms <= stream.limit_ms:
                continue
            why = f"{name}: no data for {(now_ms - stream.heard_ms) / 1000:.1f} s"
            self.told(name, why)
            # Counting starts again: the new connection gets its own time.
            stream.heard_ms = now_ms
        return why

    def ages_s(self) -> dict[str, tuple[float, bool]]:
        """Return by stream how long it has been silent, in real seconds, and whether it is fresh."""
        now_ms = self._clock.real_ms()
        return {
            name: ((now_ms - stream.heard_ms) / 1000, stream.is_fresh)
            for name, stream in self._streams.items()
        }

    def _tell(self, name: str, stream: _Stream, *, is_fresh: bool, reason: str) -> None:
        stream.is_fresh = is_fresh
        self._put(FeedStateChanged(self._now_ms(), name, is_fresh, reason))
