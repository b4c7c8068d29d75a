"""Raw frames between the socket and the mapper: what one read of the socket brought, prices conflated.

A forming candle that a newer one in the same read replaces is never decoded: in a flood that is most of
the work.
"""

from collections.abc import Callable

_FORMING = b'"x":false'
_NAME_FROM = 11
"""Where the name starts in `{"stream":"name"...`."""


class FrameInbox:
    """Passes the first frame of a read on at once; `take` gets the others in order when the read pauses.

    `schedule` runs its argument after the code that is running now (an event loop's `call_soon`).
    """

    def __init__(
        self, take: Callable[[bytes], None], schedule: Callable[[Callable[[], None]], object]
    ) -> None:
        self.conflated = 0
        self._take = take
        self._schedule = schedule
        self._is_reading = False
        self._frames: list[bytes | None] = []
        self._forming: dict[bytes, int] = {}

    def put(self, body: bytes) -> None:
        """Take one frame; an older price of its stream that still waits is dropped and counted."""
        if not self._is_reading:
            self._is_reading = True
            self._schedule(self._drain)
            self._take(body)
            return
        frames = self._frames
        if body.find(_FORMING) >= 0:
            name = body[: body.find(b'"', _NAME_FROM)]
            older = self._forming.get(name)
            if older is not None:
                frames[older] = None
                self.conflated += 1
            self._forming[name] = len(frames)
        frames.append(body)

    def _drain(self) -> None:
        self._is_reading = False
        frames, self._frames = self._frames, []
        self._forming.clear()
        take = self._take
        for body in frames:
            if body is not None:
                take(body)
