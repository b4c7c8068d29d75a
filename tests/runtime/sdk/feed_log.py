"""A feed under test on a fast clock, with what it told."""

from typing import Any

from qmtl.engine.clock import SeededRandom
from qmtl.runtime.sdk.feed import WebSocketFeed
from tests.runtime.fast_clock import FastClock


class Log:
    """What a feed told, with the time on its clock."""

    def __init__(self, clock: FastClock) -> None:
        self.clock = clock
        self.messages: list[dict[str, Any]] = []
        self.states: list[str] = []
        self.infos: list[dict[str, Any]] = []
        self.times_s: list[float] = []

    async def on_message(self, message: dict[str, Any]) -> None:
        self.messages.append(message)

    def on_state(self, state: str, info: dict[str, Any]) -> None:
        self.states.append(state)
        self.infos.append(info)
        self.times_s.append(self.clock.real_ms() / 1000)

    def time_s(self, state: str) -> float:
        return self.times_s[self.states.index(state)]


def make(url: str, pace: float = 40.0, **options: Any) -> tuple[WebSocketFeed, Log]:
    clock = FastClock(pace)
    log = Log(clock)
    options = {"on_message": log.on_message, "on_state": log.on_state} | options
    return WebSocketFeed(url, clock=clock, random=SeededRandom(7), **options), log
