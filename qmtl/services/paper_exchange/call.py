"""One request as a handler sees it, and the table row that says who may make it."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import msgspec

from qmtl.core.money import parse_decimal
from qmtl.services.paper_exchange.accounts import PaperAccount
from qmtl.services.paper_exchange.auth import Security, parse_int
from qmtl.services.paper_exchange.errors import VenueError, missing
from qmtl.services.paper_exchange.exchange import Exchange
from qmtl.services.paper_exchange.market import Market


class Call:
    """A request that passed authentication: its parameters, account and moment (exchange ms)."""

    __slots__ = ("_account", "exchange", "key", "now_ms", "params")

    def __init__(
        self,
        exchange: Exchange,
        params: Mapping[str, str],
        *,
        key: str | None,
        account: PaperAccount | None,
        now_ms: int,
    ) -> None:
        self.exchange = exchange
        self.params = params
        self.key = key
        self.now_ms = now_ms
        self._account = account

    @property
    def account(self) -> PaperAccount:
        """The caller's futures account, made at its first use."""
        if self._account is None:
            self._account = self.exchange.account(self.key)
        return self._account

    def text(self, name: str) -> str:
        """Return a mandatory parameter; VenueError -1102."""
        value = self.params.get(name)
        if not value:
            raise missing(name)
        return value

    def integer(self, name: str) -> int | None:
        """Return a whole number or None; VenueError -1100."""
        return parse_int(self.params, name)

    def limit(self, default: int, most: int) -> int:
        """Return parameter `limit` within 1 to `most`; VenueError -1130."""
        value = parse_int(self.params, "limit")
        if value is None:
            return default
        if value < 1:
            raise VenueError(-1130, name="limit")
        return min(value, most)

    def decimal(self, name: str) -> Decimal | None:
        """Return an exact number or None; VenueError -1100."""
        raw = self.params.get(name)
        if raw is None or raw == "":
            return None
        try:
            return parse_decimal(raw, name)
        except ValueError:
            raise VenueError(-1100, name=name, legal="^([0-9]{1,20})(\\.[0-9]{1,20})?$") from None

    def flag(self, name: str) -> bool:
        """Return a true/false parameter, false when absent; VenueError -1102."""
        raw = self.params.get(name)
        if raw is None or raw == "":
            return False
        folded = raw.lower()
        if folded not in {"true", "false"}:
            raise missing(name)
        return folded == "true"

    def market(self) -> Market:
        """Return the market of parameter `symbol`; VenueError -1102, -1121."""
        return self.exchange.market(self.params.get("symbol"))


Handler = Callable[[Call], Any]
Weight = int | Callable[[Mapping[str, str]], int]


class Route(msgspec.Struct, frozen=True):
    """One row of a route table: what is called, by whom, and what it costs.

    `is_order` counts against the order limits; spot weights (`is_spot`) are counted apart.
    """

    method: str
    path: str
    handler: Handler
    security: Security = Security.NONE
    weight: Weight = 1
    is_order: bool = False
    is_spot: bool = False


def per_symbol(one: int, every: int) -> Callable[[Mapping[str, str]], int]:
    """Return a weight that is `one` with parameter symbol and `every` without."""
    return lambda params: one if params.get("symbol") else every
