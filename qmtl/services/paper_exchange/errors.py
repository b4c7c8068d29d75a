"""What the venue answers when it refuses: codes and messages of Binance's error page, as data.

Source: developers.binance.com, USDS-M futures, "Error Codes".
"""

from typing import Final

MESSAGES: Final[dict[int, tuple[int, str]]] = {
    -1003: (429, "Too many requests; current limit is {limit} requests per minute."),
    -1007: (
        408,
        "Timeout waiting for response from backend server. Send status unknown; execution status unknown.",
    ),
    -1015: (429, "Too many new orders; current limit is {limit} orders per {interval}."),
    -1021: (400, "Timestamp for this request is outside of the recvWindow."),
    -1022: (400, "Signature for this request is not valid."),
    -1023: (400, "Start time is greater than end time."),
    -1100: (400, "Illegal characters found in parameter '{name}'; legal range is '{legal}'."),
    -1102: (400, "Mandatory parameter '{name}' was not sent, was empty/null, or malformed."),
    -1106: (400, "Parameter '{name}' sent when not required."),
    -1115: (400, "Invalid timeInForce."),
    -1116: (400, "Invalid orderType."),
    -1117: (400, "Invalid side."),
    -1120: (400, "Invalid interval."),
    -1121: (400, "Invalid symbol."),
    -1125: (400, "This listenKey does not exist."),
    -1130: (400, "Data sent for parameter '{name}' is not valid."),
    -1131: (400, "recvWindow must be less than 60000."),
    -2010: (400, "New order rejected."),
    -2011: (400, "Unknown order sent."),
    -2013: (400, "Order does not exist."),
    -2014: (401, "API-key format invalid."),
    -2015: (401, "Invalid API-key, IP, or permissions for action."),
    -2025: (400, "Reach max open order limit."),
    -4015: (400, "Client order id is not valid."),
    -4024: (400, "Limit price can't be lower than {limit}."),
    -4045: (400, "Reach max stop order limit."),
    -4116: (400, "ClientOrderId is duplicated."),
    -4120: (
        400,
        "Order type not supported for this endpoint. Please use the Algo Order API endpoints instead.",
    ),
    -4130: (
        400,
        "An open stop or take profit order with GTE and closePosition in the direction is existing.",
    ),
    -4137: (400, "The quantity must be zero with closePosition equals true"),
    -4016: (400, "Limit price can't be higher than {limit}."),
    -4021: (400, "Invalid depth limit {limit}"),
    -4166: (400, "Search window is restricted to recent 7 days only."),
    -4171: (400, "Can not change multi-assets mode; it is already set."),
    -5027: (400, "No need to modify the order."),
}


class VenueError(Exception):
    """The venue's refusal: HTTP status, code and message; `retry_after_s` with 429 and 418."""

    def __init__(self, code: int, *, retry_after_s: int = 0, status: int = 0, **words: object) -> None:
        """Take the message of `code` and fill its blanks with `words`."""
        found, text = MESSAGES[code]
        self.code = code
        self.status = status or found
        self.message = text.format(**words)
        self.retry_after_s = retry_after_s
        super().__init__(f"{code} {self.message}")

    @classmethod
    def from_reason(cls, reason: str) -> "VenueError":
        """Return the refusal the matching core worded as "CODE text"."""
        code, _, words = reason.partition(" ")
        error = cls(-2010)
        error.code, error.message = int(code), words
        error.args = (reason,)
        return error

    @property
    def payload(self) -> dict[str, object]:
        """The body the venue sends."""
        return {"code": self.code, "msg": self.message}


def missing(name: str) -> VenueError:
    """Return the refusal of a request that lacks parameter `name`."""
    return VenueError(-1102, name=name)
