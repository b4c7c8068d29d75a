"""What a broker answers, and every way an order can fail."""

# ruff: noqa: N818 - the names are published, and say what happened

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from qmtl.core import order as core_order
from qmtl.core.money import parse_decimal
from qmtl.core.order import DONE, BrokerageError, OrderStatus, parse_status

DomainViolation = core_order.DomainViolation
"""Raised by the engine too, which is why its home is lower; authors find it here with the others."""


class RiskRefused(BrokerageError):
    """A limit or the trading state refused the order; `code` says which. Nothing was sent."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code


class OrderRejected(BrokerageError):
    """The venue's final refusal."""

    def __init__(self, reason: str, http_status: int | None = None) -> None:
        super().__init__(f"the venue refused the order: {reason}")
        self.reason = reason
        self.http_status = http_status


class OrderNotSent(BrokerageError, ConnectionError):
    """The budget is spent and the venue provably never received the order."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"the order was not sent: {reason}")
        self.reason = reason
        self.retry_after_s = retry_after_s


class OrderUnknown(BrokerageError, ConnectionError):
    """What became of the order could not be learned; its instrument is blocked until it is."""

    def __init__(self, reason: str, client_order_id: str = "") -> None:
        super().__init__(f"the outcome of order {client_order_id or '(no id)'} is unknown: {reason}")
        self.reason = reason
        self.client_order_id = client_order_id


class InstrumentBlocked(BrokerageError):
    """A new intent on an instrument that has an unsettled order; nothing was sent."""


class OrderNotFound(BrokerageError):
    """The venue knows no such order."""


class CancelFailed(BrokerageError):
    """The venue refused a cancel."""


class VenueUnavailable(BrokerageError, ConnectionError):
    """The venue could not be reached for a poll or a cancel."""


class SandboxUnavailable(BrokerageError):
    """A test venue was asked for and cannot be proven; nothing was sent."""


class VenueConfigurationError(BrokerageError):
    """Margin mode, leverage or position mode could not be set or read back; nothing was sent."""


class OCOBothFilled(BrokerageError):
    """Both legs of a one-cancels-other pair filled; `oco` holds both results."""

    def __init__(self, oco: tuple["OrderResult", "OrderResult"]) -> None:
        super().__init__(f"both legs filled: {oco[0].id} and {oco[1].id}")
        self.oco = oco


_ID = ("id", "order_id", "orderId")
_CLIENT_ID = ("client_order_id", "clientOrderId")
_QUANTITY = ("quantity", "amount", "origQty")
_FILLED = ("filled", "filled_quantity", "executedQty")
_PRICE = ("average_price", "average", "avgPrice")
_TIME = ("venue_time_ms", "lastUpdateTimestamp", "timestamp", "updateTime")


class OrderResult(dict[str, Any]):
    """A broker's answer: the mapping as it came, `status` its raw word, and typed attributes beside it.

    Numbers of the mapping stay plain, attributes are Decimal or None. An answer without status means
    accepted. Raises ValueError naming the field when a number is none.
    """

    def __init__(
        self,
        answer: Mapping[str, Any],
        *,
        client_order_id: str = "",
        quantity: Decimal | None = None,
        http_status: int | None = None,
        reason: str = "",
    ) -> None:
        super().__init__(answer)
        self["id"] = str(_first(answer, _ID) or "")
        self["client_order_id"] = str(_first(answer, _CLIENT_ID) or client_order_id)
        self.setdefault("status", OrderStatus.ACCEPTED.value)
        self.http_status = http_status
        self.reason = reason or str(answer.get("reason") or "")
        self.quantity = _decimal(answer, _QUANTITY)
        self.filled = _decimal(answer, _FILLED)
        self.status = parse_status(str(self["status"]), filled=self.filled, quantity=self.quantity)
        if (known := quantity if self.quantity is None else self.quantity) is not None:
            self.know_quantity(known)
        self.average_price = _decimal(answer, _PRICE) or None
        self.fee = _fee(answer.get("fee"))
        time_ms = _first(answer, _TIME)
        self.venue_time_ms = int(time_ms) if isinstance(time_ms, int | float) else None

    def know_quantity(self, quantity: Decimal) -> None:
        """Take the order's own quantity where the answer tells none: the status may depend on it."""
        if self.quantity is None:
            self.quantity = quantity
        self.status = parse_status(str(self["status"]), filled=self.filled, quantity=self.quantity)
        if self.filled is None and self.status is OrderStatus.FILLED:
            self.filled = self.quantity

    @property
    def id(self) -> str:
        """The broker's id of the order."""
        return str(self["id"])

    @property
    def client_order_id(self) -> str:
        """Our id of the order."""
        return str(self["client_order_id"])

    @property
    def symbol(self) -> str:
        """The instrument, empty when the answer does not say."""
        return str(self.get("symbol") or "")

    @property
    def done(self) -> bool:
        """Tell whether the order has ended."""
        return self.status in DONE

    @property
    def remaining(self) -> Decimal | None:
        """Base units still to fill, None while unknown."""
        if self.quantity is None:
            return None
        return self.quantity - (self.filled or Decimal(0))


def _first(answer: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((answer[name] for name in names if answer.get(name) is not None), None)


def _decimal(answer: Mapping[str, Any], names: tuple[str, ...]) -> Decimal | None:
    value = _first(answer, names)
    return None if value is None else parse_decimal(value, names[0])


def _fee(value: Any) -> Decimal | None:
    cost = value.get("cost") if isinstance(value, Mapping) else value
    return None if cost is None else parse_decimal(cost, "fee")
