"""Signed REST calls to Binance: time stamps, request weight, bans, typed errors.

Source: https://developers.binance.com/docs/derivatives/usds-margined-futures/general-info.
"""

import hmac
import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlencode

import aiohttp
import structlog
from yarl import URL

from qmtl.core.event import ClockChecked
from qmtl.core.order import BrokerageError
from qmtl.engine.ports import Clock, Random
from qmtl.runtime.io.binance_payloads import PayloadError, parse_error, parse_time
from qmtl.runtime.sdk.brokerage.result import OrderNotSent, VenueUnavailable
from qmtl.runtime.sdk.brokerage.send_policy import (
    Outcome,
    SendPolicy,
    Verdict,
    classify_error,
    classify_status,
    parse_retry_after,
)

Security = Literal["none", "key", "signed"]
Method = Literal["GET", "POST", "PUT", "DELETE"]
RECV_WINDOW_MS = 3_000
"""How late the venue may still take a request; absence can be proven one second after it, so that a trader
killed while it sent is ready again within ten."""

CLOCK_LIMIT_MS = 1_000.0
"""A larger offset between our clock and the venue's stops entries (trader.md §3)."""

_BANNED_UNTIL = re.compile(r"banned until (\d{13})")
_PLAIN = re.compile(r"[A-Za-z0-9._-]*")
_DEFAULT_BAN_S = 120.0
_WEIGHT_HEADER = "X-MBX-USED-WEIGHT-1M"
_DEFAULT_WEIGHT_LIMIT = 2400
_BUSY_SHARE = 0.9
_MINUTE_MS = 60_000

ORDER_ABSENT = frozenset({-2013})
UNKNOWN_ORDER = -2011
_TIMESTAMP = -1021
_TOO_MANY = frozenset({-1003, -1015})
# "Request throttled by system-level protection" is a failure; the codes below it leave the outcome open.
_OVERLOADED = -1008
_OPEN_OUTCOME = frozenset({-1000, -1001, -1006, -1007})
_DUPLICATE = frozenset({-4116, -20132})
_log = structlog.get_logger("qmtl.binance")


class BinanceError(BrokerageError):
    """The venue refused a call: its `code` (0 when it gave none) and words."""

    def __init__(self, code: int, text: str, http_status: int, retry_after_s: float | None = None) -> None:
        super().__init__(f"{code} {text}".strip())
        self.code = code
        self.text = text
        self.http_status = http_status
        self.retry_after_s = retry_after_s


def classify_binance(error: Exception) -> Verdict:
    """Judge a failed order call by the venue's code first, then by its status."""
    if isinstance(error, OrderNotSent):
        return Verdict(Outcome.NOT_TAKEN, error.reason, None, error.retry_after_s)
    if not isinstance(error, BinanceError):
        return classify_error(error)
    outcome, looks_first = classify_status(error.http_status), False
    if error.code in _OPEN_OUTCOME:
        outcome = Outcome.AMBIGUOUS
    elif error.code in _TOO_MANY or error.code in {_TIMESTAMP, _OVERLOADED} or error.http_status == 418:
        outcome = Outcome.NOT_TAKEN
    elif error.code in _DUPLICATE or (error.code == -2010 and "uplicate" in error.text):
        outcome, looks_first = Outcome.FINAL, True
    return Verdict(outcome, str(error), error.http_status, error.retry_after_s, looks_first)


def dump_query(params: Mapping[str, str]) -> str:
    """Return `params` as a query string; quoting is skipped where no value needs it."""
    if _PLAIN.fullmatch("".join(params.values())):
        return "&".join([f"{name}={value}" for name, value in params.items()])
    return urlencode(params)


class BinanceRest:
    """One account's road to the REST API; makes no connection before the first call.

    `policy` binds every call to the pauses the venue asks for. `clock_offset_ms` is ours minus theirs in
    real milliseconds; stamps are corrected by it. Raises BinanceError for what the venue says and aiohttp's
    or the system's errors for what the network does.
    """

    def __init__(
        self,
        api_key: str,
        secret: str,
        base_url: str,
        *,
        clock: Clock,
        random: Random,
        recv_window_ms: int = RECV_WINDOW_MS,
        timeout_s: float = 5.0,
        max_retries: int = 3,
        backoff_s: float = 0.1,
    ) -> None:
        self._api_key = api_key
        self._secret = secret.encode()
        self.base_url = URL(base_url.rstrip("/"))
        self._recv_window_ms = recv_window_ms
        self._timeout_s = timeout_s
        self.clock = clock
        self.random = random
        self.max_retries = max_retries
        self.policy = SendPolicy(
            clock,
            random,
            max_retries=max_retries,
            backoff_s=backoff_s,
            # A request older than recvWindow is refused, so after it and a second nothing more can arrive.
            absence_window_s=recv_window_ms / 1000 + 1,
            classify=classify_binance,
        )
        self.clock_offset_ms = 0.0
        self.weight_limit = _DEFAULT_WEIGHT_LIMIT
        self.weight_used = 0
        self._weight_read_ms = 0.0
        self._session: aiohttp.ClientSession | None = None
        self._log = _log.bind(venue=self.base_url.host)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.base_url)!r}, api_key=***, secret=***)"

    @property
    def session(self) -> aiohttp.ClientSession:
        """The one HTTP session, made at its first use."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(sock_connect=self._timeout_s, sock_read=self._timeout_s)
            # The venue sets no cookies; looking for them at every request costs as much as the signature.
            self._session = aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        return self._session

    def now_ms(self) -> int:
        """Exchange time in UTC milliseconds, corrected by the measured offset."""
        return self.clock.now_ms() - round(self.clock_offset_ms * self.clock.speed)

    def sign(self, params: Mapping[str, str]) -> str:
        """Return the query string of `params` with stamp, window and signature."""
        stamped = {**params, "recvWindow": str(self._recv_window_ms), "timestamp": str(self.now_ms())}
        query = dump_query(stamped)
        return f"{query}&signature={self.signature(query)}"

    def signature(self, text: str) -> str:
        """Return the hexadecimal HMAC-SHA256 of `text` under the secret."""
        return hmac.digest(self._secret, text.encode(), "sha256").hex()

    def sign_socket(self, params: Mapping[str, str]) -> dict[str, str]:
        """Return `params` of a WebSocket API call with key, stamp and signature over the sorted pairs."""
        stamped = {
            **params,
            "apiKey": self._api_key,
            "recvWindow": str(self._recv_window_ms),
            "timestamp": str(self.now_ms()),
        }
        return {
            **stamped,
            "signature": self.signature("&".join(f"{k}={stamped[k]}" for k in sorted(stamped))),
        }

    async def call(
        self,
        method: Method,
        path: str,
        params: Mapping[str, str] | None = None,
        *,
        security: Security = "signed",
        weight: int = 1,
        is_urgent: bool = False,
    ) -> bytes:
        """Send one request, once, and return the body of a 2xx answer.

        `weight` is what the venue will charge: a call that would come near the limit waits for the next
        minute unless it `is_urgent` (orders and cancels are). VenueUnavailable while the venue asks for
        more patience than a minute.
        """
        try:
            await self.policy.wait_turn()
        except OrderNotSent as error:
            if is_urgent:
                raise
            raise VenueUnavailable(error.reason) from error
        if not is_urgent:
            await self._wait_for_weight(weight)
        query = self.sign(params or {}) if security == "signed" else dump_query(params or {})
        url = URL(f"{self.base_url}{path}" + (f"?{query}" if query else ""), encoded=True)
        headers = {} if security == "none" else {"X-MBX-APIKEY": self._api_key}
        async with self.session.request(method, url, headers=headers, allow_redirects=False) as answer:
            body = await answer.read()
            self._read_weight(answer.headers)
            if 200 <= answer.status < 300:
                return body
            refusal = self._refused(answer.status, answer.headers, body)
        if refusal.code == _TIMESTAMP:
            await self.sync_clock()
        raise refusal

    async def ask(
        self,
        method: Method,
        path: str,
        params: Mapping[str, str] | None = None,
        *,
        security: Security = "signed",
        weight: int = 1,
        is_urgent: bool = False,
    ) -> bytes:
        """Send a harmless request until it is answered; VenueUnavailable once the budget is spent."""
        k = 1
        while True:
            try:
                return await self.call(
                    method, path, params, security=security, weight=weight, is_urgent=is_urgent
                )
            except (aiohttp.ClientError, OSError, BinanceError) as error:
                verdict = classify_binance(error)
                if verdict.outcome is Outcome.FINAL or isinstance(error, VenueUnavailable):
                    raise
                if k > self.max_retries:
                    raise VenueUnavailable(f"{method} {path}: {verdict.reason}") from error
            await self.policy.pause(k)
            k += 1

    def _refused(self, status: int, headers: Mapping[str, str], body: bytes) -> BinanceError:
        retry_after_s = parse_retry_after(headers.get("Retry-After"), self.clock)
        try:
            payload = parse_error(body)
            code, text = payload.code, payload.msg
        except PayloadError:
            code, text = 0, f"HTTP {status}"
        if status == 418 and retry_after_s is None:
            until = _BANNED_UNTIL.search(text)
            left_ms = int(until[1]) - self.now_ms() if until else _DEFAULT_BAN_S * 1000
            retry_after_s = max(1.0, left_ms / 1000)
        if retry_after_s is not None:
            self.policy.hold(retry_after_s)
            self._log.warning(
                "asked to wait", http_status=status, retry_after_s=retry_after_s, action="calls wait"
            )
        return BinanceError(code, text, status, retry_after_s)

    def _read_weight(self, headers: Mapping[str, str]) -> None:
        used = headers.get(_WEIGHT_HEADER, "")
        if used.isdigit():
            self.weight_used = int(used)
            self._weight_read_ms = self.clock.real_ms()

    @property
    def weight_share(self) -> float:
        """Share of the minute's weight used, as last told."""
        return self.weight_used / self.weight_limit if self.weight_limit else 0.0

    async def _wait_for_weight(self, weight: int) -> None:
        clock = self.clock
        if self.weight_used + weight <= self.weight_limit * _BUSY_SHARE:
            self.weight_used += weight
            return
        age_ms = clock.real_ms() - self._weight_read_ms
        # The venue counts in minutes of its own time; a scaled clock does not show where they begin.
        left_ms = _MINUTE_MS - self.now_ms() % _MINUTE_MS if clock.speed == 1 else _MINUTE_MS - age_ms
        if age_ms < _MINUTE_MS and left_ms > 0:
            self._log.info("near the weight limit", used=self.weight_used, waits_s=left_ms / 1000)
            await clock.sleep(left_ms / 1000 + 0.05)
        self.weight_used = weight

    async def sync_clock(self) -> ClockChecked:
        """Compare clocks, correct future stamps, and return what was found."""
        before_ms, clock = self.clock.now_ms(), self.clock
        body = await self.ask("GET", "/fapi/v1/time", security="none", is_urgent=True)
        theirs_ms = parse_time(body)
        middle_ms = (before_ms + clock.now_ms()) / 2
        self.clock_offset_ms = (middle_ms - theirs_ms) / clock.speed
        return ClockChecked(theirs_ms, self.clock_offset_ms)

    async def aclose(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()
            self._session = None
