"""The live view of a running trader: lines for what happened, a panel for how it stands."""

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from qmtl.cli.status_text import (
    clock,
    dump_decision,
    dump_fill,
    dump_streams,
    explain,
    level,
    money,
    price,
    signed,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from qmtl.engine.control import Controlled

REFRESH_S = 0.25
_ROWS = 8
_FIXED_ROWS = 13
_STATES = {"ACTIVE": "green", "REDUCING": "black on yellow", "HALTED": "white on red"}
_DOMAINS = {
    "SYNTHETIC": "black on bright_white",
    "dryrun": "white on blue",
    "LIVE": "white on red",
    "RECORDED": "black on bright_white",
}
_LINES = {
    "IntentRefused": "refused {code}: {detail}",
    "OrderRejected": "rejected {client_order_id}: {reason}",
    "OrderUnsettled": "UNSETTLED {client_order_id}: {reason}",
    "StateChanged": "{state} by {who}: {why}",
    "ErrorRecorded": "ERROR {code}: {detail}",
    "FeedStateChanged": "stale {stream}: {reason}",
}
_BANDS = ("upperBand", "upperInter", "lowerInter", "lowerBand")


class LiveView:
    """Prints fills, refusals and changes of state as lines; on a terminal also a panel under them.

    `banner` is the first line; `word` (SYNTHETIC, dryrun, LIVE) stays on every screen. Off a terminal every
    closed bar is a line as well where `tells_decisions`.
    """

    def __init__(self, console: "Console", banner: str, word: str, *, tells_decisions: bool = False) -> None:
        self._tells_decisions = tells_decisions and not console.is_terminal
        self._console = console
        self._banner = banner
        self._word = word
        self._intents: dict[str, Mapping[str, Any]] = {}
        self._fills: deque[str] = deque(maxlen=_ROWS)
        self._decisions: deque[Mapping[str, Any]] = deque(maxlen=_ROWS)
        self._status: Mapping[str, Any] = {}
        self._controlled: Controlled | None = None

    async def run(self, controlled: "Controlled") -> None:
        """Show until cancelled."""
        self._controlled = controlled
        if not self._console.is_terminal:
            self._console.print(self._banner, soft_wrap=True)
            await self._follow(controlled)
            return
        from rich.live import Live

        with _without_control_echo(), Live(console=self._console, auto_refresh=False) as live:
            follow = asyncio.get_running_loop().create_task(self._follow(controlled))
            try:
                while not follow.done():
                    self._status = controlled.status()
                    live.update(self.render(), refresh=True)
                    await asyncio.wait({follow}, timeout=REFRESH_S)
                await follow
            finally:
                follow.cancel()
                self._status = controlled.status()
                live.update(self.render(), refresh=True)

    async def _follow(self, controlled: "Controlled") -> None:
        async for news in controlled.subscribe():
            line = self.take(news)
            if line:
                self._console.print(line, soft_wrap=True)

    # --- news ----------------------------------------------------------------------------------------

    def take(self, news: Mapping[str, Any]) -> str:
        """Keep what the panel shows; return the line this news is worth, or nothing."""
        kind = news["event"]
        if kind == "IntentRecorded":
            # The bands it was decided by: at the fill they may be the next bar's.
            bands = {} if self._controlled is None else self._controlled.status().get("bands") or {}
            self._intents[news["client_order_id"]] = {**news["intent"], "bands": bands}
        elif kind == "DecisionMade":
            self._decisions.append(news)
            is_news = self._tells_decisions and news["reason"] != "warming_up"
            return dump_decision(news) if is_news else ""
        elif kind == "OrderFilled":
            return self._take_fill(news)
        elif kind in _LINES and news.get("reason") != "connecting" and not news.get("is_fresh"):
            # Nobody need say why: no colon then.
            return f"{clock(news['ts_ms'])} {_LINES[kind].format_map(news).removesuffix(': ')}"
        return ""

    def _take_fill(self, fill: Mapping[str, Any]) -> str:
        intent = self._intents.get(fill["client_order_id"], {})
        role = str(intent.get("role") or "fill")
        line = dump_fill(fill, role, self._why(role, intent))
        self._fills.append(line)
        return line

    def _why(self, role: str, intent: Mapping[str, Any]) -> str:
        bands = dict(intent.get("bands") or {})
        if role != "entry" or "upperInter" not in bands:
            return str(intent.get("why") or role)
        if intent.get("side") == "BUY":
            return f"above band {level(bands['upperInter'])}"
        return f"below band {level(bands['lowerInter'])}"

    # --- the panel -----------------------------------------------------------------------------------

    def render(self) -> "RenderableType":
        """Return the panel for the last status."""
        from rich.columns import Columns
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        status = self._status
        head = Text.assemble(
            (f" {self._word} ", _DOMAINS.get(self._word, "")),
            " ",
            (f" {status.get('state', '?')} ", _STATES.get(str(status.get("state")), "")),
            f" {self._banner.removeprefix(self._word).strip(' ·')}",
        )
        parts: list[RenderableType] = [Text(self._money_line()), Text(self._market_line())]
        parts += [Text(f"not ready: {reason}", style="yellow") for reason in status.get("not_ready") or ()]
        parts += [Columns([self._positions(), self._orders()], padding=(0, 2))]
        parts += [self._decision_table(), self._fill_table()]
        return Panel(
            Group(*parts), title=head, title_align="left", border_style=self._border(), padding=(0, 1)
        )

    def _rows(self) -> int:
        """Rows of each list that fit under what always shows."""
        return max(1, min(_ROWS, (self._console.height - _FIXED_ROWS) // 2))

    def _border(self) -> str:
        state = self._status.get("state")
        return {"REDUCING": "yellow", "HALTED": "red"}.get(
            str(state), "blue" if self._word == "dryrun" else "white"
        )

    def _money_line(self) -> str:
        status = self._status
        counts = dict(status.get("counts") or {})
        limit = dict(status.get("limits") or {}).get("max_daily_loss")
        day = f"day {signed(status.get('day_pnl'))}" + (f"/−{money(limit)}" if limit else "")
        did = " · ".join(f"{counts.get(name, 0)} {name}" for name in ("candles", "orders", "fills"))
        cash = f"equity {money(status.get('equity'))} {status.get('asset', '')} · {day}"
        costs = f"PnL {signed(status.get('pnl'))} · fees {money(status.get('fees'))}"
        return f"{cash} · {costs} · {did} · unsettled {status.get('unsettled', 0)}"

    def _market_line(self) -> str:
        status = self._status
        marks = dict(status.get("marks") or {})
        prices = " · ".join(f"{symbol} {price(value)}" for symbol, value in marks.items())
        bands = dict(status.get("bands") or {})
        names = _BANDS if len(bands) >= len(_BANDS) and _BANDS[0] in bands else tuple(bands)
        shown = " | ".join(level(bands[name]) for name in names) or "warming up"
        now = clock(status["now_ms"]) if "now_ms" in status else "--:--:--"
        return f"{now} · {prices or 'no price yet'} · bands {shown} · {dump_streams(status)}"

    def _positions(self) -> "Table":
        table = _table("position", "entry", "mark", "profit", "stop@venue")
        for held in self._status.get("positions") or ():
            quantity = Decimal(str(held["quantity"]))
            profit = Decimal(str(held["unrealized"]))
            stop = price(held["stop"]) if held.get("stop") else f"none {held.get('unprotected_s', 0):.0f} s"
            table.add_row(
                f"{'LONG' if quantity > 0 else 'SHORT'} {abs(quantity)} {held['symbol']}",
                price(held["entry_price"]),
                price(held["mark"]),
                f"[{'green' if profit >= 0 else 'red'}]{signed(profit)}[/]",
                stop,
            )
        if not table.row_count:
            table.add_row("0", "-", "-", "-", "-")
        return table

    def _orders(self) -> "Table":
        table = _table("order", "at", "filled", "status")
        for order in self._status.get("orders") or ():
            at = order.get("limit_price") or order.get("stop_price")
            name = f"{order['role']} {order['side']} {order['quantity']} {order['type']}"
            table.add_row(name, price(at) if at else "market", str(order["filled"]), str(order["status"]))
        if not table.row_count:
            table.add_row("none", "-", "-", "-")
        return table

    def _decision_table(self) -> "Table":
        table = _table("closed bar: what was done, and why")
        for decision in list(reversed(self._decisions))[: self._rows()]:
            style = "bold" if decision["reason"] in {"entered", "exited"} else "dim"
            table.add_row(f"[{style}]{_plain(dump_decision(decision))}[/]")
        if not self._decisions:
            table.add_row(f"[dim]{explain('no_signal', '', {})} yet: waiting for the first closed bar[/]")
        return table

    def _fill_table(self) -> "Table":
        table = _table("fills")
        for line in list(reversed(self._fills))[: self._rows()]:
            table.add_row(_plain(line))
        if not self._fills:
            table.add_row("[dim]none yet[/]")
        return table


@contextlib.contextmanager
def _without_control_echo() -> Iterator[None]:
    """Keep the terminal from writing ^C into the panel."""
    import termios

    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    quiet = [*before]
    quiet[3] &= ~termios.ECHOCTL
    termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


def _table(*columns: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold cyan", show_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    return table


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
