"""Runs one trader in this process: control port, metrics, live view, signals, and the last line."""

import asyncio
import contextlib
import hashlib
import os
import random
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from qmtl.cli.invocation import INTERRUPTED, Invocation, now_ms
from qmtl.cli.places import Places
from qmtl.metrics import SEAMLESS, TraderMetrics

if TYPE_CHECKING:
    from qmtl.cli.live_view import LiveView
    from qmtl.core.event import AnyEvent
    from qmtl.engine.engine import Engine
    from qmtl.engine.owner import AccountLock
    from qmtl.trader.rt_trader import RealTimeTrader

_LAG_EVERY_S = 0.25
_WATCHDOG_EVERY_S = 5.0
_log = structlog.get_logger("qmtl.alert")
_SHOW_CURSOR = "\x1b[?25h"


def run_loop(work: Coroutine[Any, Any, None]) -> None:
    """Run on an event loop of its own, the fast one where it installs."""
    try:
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ModuleNotFoundError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(work)


class LoggedMetrics(TraderMetrics):
    """The metrics of a trader whose alerts are also written to the log."""

    def on_alert(self, code: str, detail: str) -> None:
        """See engine.live.Observer."""
        super().on_alert(code, detail)
        _log.warning(code, detail=detail, action="qmtl status shows it; docs/en/runbook/ says what to do")


class Running:
    """One trader from its opening to its last line.

    A first SIGINT or SIGTERM stops cleanly, a second leaves at once with 130.
    """

    def __init__(
        self, invocation: Invocation, trader: "RealTimeTrader", places: Places, metrics: TraderMetrics
    ) -> None:
        self.invocation = invocation
        self.trader = trader
        self.places = places
        self._metrics = metrics
        self._started_s = time.time()
        self._key_lock: AccountLock | None = None
        self._cancelled = 0
        self._is_stopping = False
        self._stops: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Take the account by its key as well as by its journal, then open the trader.

        Two configurations with one key would otherwise own one account twice.
        """
        from qmtl.engine.owner import require_local

        trader = self.trader
        require_local(trader.journal_path)
        if trader.has_venue:
            self._key_lock = lock_of_key(trader)
            self._key_lock.acquire()
        await trader.open()
        trader.parts.tap.listeners += [self._metrics.on_event, self._count_cancels]
        trader.desk.extras.append(self._describe_machine)

    async def run(self, seconds: float | None, view: "LiveView | None") -> None:
        """Trade until stopped or `seconds` are over; raises what ended it otherwise."""
        async with AsyncExitStack() as stack:
            if self._key_lock is not None:
                stack.callback(self._key_lock.release)
            await stack.enter_async_context(self._controlled())
            stack.callback(self._watch_signals())
            for task in (self._measure_lag(), self._tell_supervisor(), *self._views(view)):
                await stack.enter_async_context(_task(task))
            await self.trader.run(seconds)

    def stop(self, why: str) -> None:
        """Ask for a clean stop; asking twice is asking once."""
        if not self._is_stopping:
            self._is_stopping = True
            self._stops.add(asyncio.get_running_loop().create_task(self.trader.stop(why)))

    def summary(self) -> dict[str, Any]:
        """Return what the run came to, once it is over."""
        trader, status = self.trader, self.trader.desk.status()
        counts = status["counts"]
        return {
            **{name: counts[name] for name in ("candles", "decisions", "orders", "fills")},
            "open_position": {held["symbol"]: held["quantity"] for held in status["positions"]},
            "wallet": status["wallet"],
            "pnl": status["pnl"],
            "fees": status["fees"],
            "reconnects": sum(dict(status.get("reconnects") or {}).values()),
            "state_hash": trader.engine.state_hash(),
            "journal": str(trader.journal_path),
            "reasons": status["reasons"],
            "refusals": status["refusals"],
            "state": status["state"],
        }

    def last_line(self) -> str:
        """Return the line a stopped trader leaves: what was cancelled, what is held, where the journal is."""
        held = [p for p in self.trader.engine.account.positions.values() if p.quantity]
        position = ", ".join(f"{p.quantity} {p.symbol}" for p in held) or "0"
        orders = f"{self._cancelled} order{'' if self._cancelled == 1 else 's'} cancelled"
        return f"entries off · {orders} · position {position} · journal {_short(self.trader.journal_path)}"

    # --- parts ---------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _controlled(self) -> AsyncIterator[None]:
        from qmtl.engine.control import ControlServer, ensure_token

        trader, places = self.trader, self.places
        server = ControlServer(
            trader.desk,
            account=trader.account,
            clock=trader.clock,
            metrics=self._metrics_page,
            socket_path=places.socket,
            token=ensure_token(places.token, random.SystemRandom()),
            port=trader.config.control.port,
        )
        await server.start()
        try:
            yield
        finally:
            await server.aclose()

    def _watch_signals(self) -> Callable[[], None]:
        loop = asyncio.get_running_loop()

        def interrupt() -> None:
            if self._is_stopping:
                sys.stdout.write(_SHOW_CURSOR if sys.stdout.isatty() else "")
                sys.stdout.flush()
                os._exit(INTERRUPTED)
            self.stop("interrupted")

        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, interrupt)

        def forget() -> None:
            for number in numbers:
                loop.remove_signal_handler(number)

        return forget

    def _views(self, view: "LiveView | None") -> list[Coroutine[Any, Any, None]]:
        return [] if view is None else [view.run(self.trader.desk)]

    async def _measure_lag(self) -> None:
        while True:
            due = time.monotonic() + _LAG_EVERY_S
            await asyncio.sleep(_LAG_EVERY_S)
            self._metrics.loop_lag.observe(max(0.0, time.monotonic() - due))

    async def _tell_supervisor(self) -> None:
        """Tell systemd that the trader is ready, and feed its watchdog while the engine loop turns."""
        notify("READY=1")
        while True:
            if self.trader.desk.health()[0]:
                notify("WATCHDOG=1")
            await asyncio.sleep(_WATCHDOG_EVERY_S)

    def _count_cancels(self, event: "AnyEvent") -> None:
        from qmtl.core.event import OrderCanceled

        if self._is_stopping and isinstance(event, OrderCanceled):
            self._cancelled += 1

    def _metrics_page(self) -> bytes:
        self._metrics.show(self.trader.desk.status())
        return self._metrics.render() + SEAMLESS.render()

    def _describe_machine(self) -> dict[str, Any]:
        from qmtl.engine.backup import find_backups
        from qmtl.engine.parity_record import read_breaks

        journal = self.trader.journal_path
        found = find_backups(journal, self.places.backups)
        # Before the first backup its age is the age of the process: then it is due as well.
        since = found[-1].stat().st_mtime if found else self._started_s
        return {
            "disk_free_bytes": shutil.disk_usage(journal.parent).free,
            "backup_age_s": max(0.0, time.time() - since),
            "parity_breaks": read_breaks(journal),
            "bands": find_bands(self.trader.engine),
            "pid": os.getpid(),
        }


def lock_of_key(trader: "RealTimeTrader") -> "AccountLock":
    """Return the lock of the account behind venue and key, whatever the settings call it."""
    from qmtl.config import account_keys
    from qmtl.engine.owner import AccountLock

    config = trader.config.account
    key = (account_keys(trader.config) or ("", ""))[0]
    digest = hashlib.sha256(f"{config.base_url}\0{key}".encode()).hexdigest()[:16]
    path = Path.home() / ".qmtl" / "locks" / f"{config.venue}-{digest}.lock"
    return AccountLock(path, account=trader.account, started_ms=now_ms())


def find_bands(engine: "Engine") -> dict[str, float]:
    """Return the bands the next price is compared with, empty for strategies without them."""
    lines: dict[str, float] | None = getattr(engine.strategy, "lines", None)
    if lines is not None:
        return lines
    bands = getattr(engine.strategy, "bands", None)
    if bands is None or not bands.is_full:
        return {}
    _, upper_inner, upper, lower_inner, lower = bands.levels
    return {"upperInter": upper_inner, "upperBand": upper, "lowerInter": lower_inner, "lowerBand": lower}


def notify(text: str) -> None:
    """Send one state to the supervisor named by NOTIFY_SOCKET; does nothing without one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    name = f"\0{address[1:]}" if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
        sender.sendto(text.encode(), name)


@asynccontextmanager
async def _task(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` beside the body; it ends with the body, and what it raised is raised after it."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _short(path: Path) -> str:
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
