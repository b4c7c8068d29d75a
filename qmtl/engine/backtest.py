"""The synchronous driver: recorded events through the engine and a matching venue."""

from collections.abc import Iterable, Sequence

from qmtl.core.command import CancelOrder, Command, SubmitOrder
from qmtl.core.event import (
    AnyEvent,
    BarClosed,
    SessionStarted,
    TimerFired,
    Transferred,
)
from qmtl.engine.engine import Engine
from qmtl.engine.heap import rare_collections
from qmtl.engine.ports import CalmVenue, MatchingVenue


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
        self._calm_venue = venue if isinstance(venue, CalmVenue) else None
        self._grace_ms = grace_ms

    def start(self, session: SessionStarted, wallet: Transferred) -> None:
        """Open the session with its first balance."""
        self._engine.process(session)
        self._engine.process(wallet)

    def run(self, events: Iterable[AnyEvent]) -> None:
        """Feed every event: first to the venue, whose fills come before it, then to the engine.

        Where `events` is a list, stretches of it that a strategy foresees to be quiet are taken at once.
        """
        foresight = self._engine.foresight
        venue = self._calm_venue if foresight is not None and foresight.is_prepared else None
        with rare_collections():
            if venue is not None and isinstance(events, list):
                self._run_foreseen(events, venue)
            else:
                self._run_each(events)

    def _run_each(self, events: Iterable[AnyEvent]) -> None:
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

    def _run_foreseen(self, events: Sequence[AnyEvent], venue: CalmVenue) -> None:
        engine = self._engine
        at, end = 0, len(events)
        while at < end:
            bars = engine.foresee(events, at)
            if bars:
                count = len(bars)
                asking = events[at + count] if at + count < end else None
                # The bar that ends the stretch asks the strategy; the venue mostly has nothing to say of it.
                if type(asking) is BarClosed and asking.symbol == bars[0].symbol:
                    passed = venue.take_calm([*bars, asking])
                else:
                    passed = venue.take_calm(bars)
                if passed:
                    engine.pass_quiet(bars if passed >= count else bars[:passed])
                    at += min(passed, count)
                if asking is not None and passed > count:
                    self._settle(engine.process(asking))
                    at += 1
                    continue
            # What ended the stretch is an event like any other.
            self._run_each(events[at : at + 1])
            at += 1

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
                self._feed(venue.submit(command.order, engine.risk.now_ms))
            elif type(command) is CancelOrder:
                self._feed(venue.cancel(command.order, engine.risk.now_ms))
