"""The synchronous driver: recorded events through the engine and a matching venue."""

from collections.abc import Iterable

from qmtl.core.command import CancelOrder, Command, SubmitOrder
from qmtl.core.event import (
    AnyEvent,
    SessionStarted,
    TimerFired,
    Transferred,
)
from qmtl.engine.engine import Engine
from qmtl.engine.ports import MatchingVenue


class Backtest:
    """Drives one engine over market events, in order, answering every command before the next event."""

    def __init__(self, engine: Engine, venue: MatchingVenue, *, grace_ms: int = 0) -> None:
        """Drive `engine` against `venue`, which must be in memory.

        Timers that come with the events have `grace_ms` to be there before the driver fires its own.
        """
        if venue.reach != "memory":
            message = f"a backtest cannot reach a {venue.reach} venue"
            raise ValueError(message)
        self._engine = engine
        self._venue = venue
        self._grace_ms = grace_ms

    def start(self, session: SessionStarted, wallet: Transferred) -> None:
        """Open the session with its first balance."""
        self._engine.process(session)
        self._engine.process(wallet)

    def run(self, events: Iterable[AnyEvent]) -> None:
        """Feed every event: first to the venue, whose fills come before it, then to the engine."""
        process = self._engine.process
        on_market = self._venue.on_market
        wakes = self._engine.state.wakes
        for event in events:
            while wakes and wakes[0] + self._grace_ms <= event.ts_ms:
                self._settle(process(TimerFired(wakes[0])))
                wakes = self._engine.state.wakes
            caused = on_market(event)
            if caused:
                self._feed(caused)
            commands = process(event)
            if commands:
                self._settle(commands)

    def _feed(self, events: Iterable[AnyEvent]) -> None:
        process = self._engine.process
        for event in events:
            commands = process(event)
            if commands:
                self._settle(commands)

    def _settle(self, commands: tuple[Command, ...]) -> None:
        engine, venue = self._engine, self._venue
        for command in commands:
            if type(command) is SubmitOrder:
                order = command.order
                self._feed(venue.submit(order, engine.risk.now_ms))
            elif type(command) is CancelOrder:
                self._feed(venue.cancel(command.order, engine.risk.now_ms))
