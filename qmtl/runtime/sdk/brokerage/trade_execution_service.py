"""Orders over HTTP: one POST per attempt, under one id, to a broker that answers JSON."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
from yarl import URL

from qmtl.core.money import parse_decimal
from qmtl.engine.ports import Clock, Random
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.background import BACKGROUND
from qmtl.runtime.sdk.bearer import BearerToken, Token, TokenUnavailable
from qmtl.runtime.sdk.brokerage.client import BrokerageClient, OrderLike
from qmtl.runtime.sdk.brokerage.order_road import JournalSource
from qmtl.runtime.sdk.brokerage.result import (
    CancelFailed,
    OrderNotFound,
    OrderNotSent,
    OrderResult,
    VenueUnavailable,
)
from qmtl.runtime.sdk.brokerage.send_policy import (
    HttpStatusError,
    Outcome,
    Verdict,
    classify_error,
    parse_retry_after,
)

_ENCODER = msgspec.json.Encoder(decimal_format="number")
_STAND_INS = {"symbol": "UNNAMED", "side": "BUY", "quantity": 1}


class TradeExecutionService(BrokerageClient):
    """POSTs orders to `url`; polls GET and cancels DELETE `{url}/{id}`; looks up by `?client_order_id=`.

    `backoff` and `absence_window_s` are seconds, `token` is sent as a Bearer token (text, `file:PATH` or a
    function). Unknown fields of an order are forwarded; present fields are checked, none is required.
    """

    capabilities = frozenset({"find_order"})

    def __init__(
        self,
        url: str,
        *,
        max_retries: int = 3,
        backoff: float = 0.1,
        token: Token | None = None,
        absence_window_s: float = 5.0,
        journal: JournalSource = None,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"url: expected an http:// or https:// URL, got {url!r}")
        self.url = url.rstrip("/")
        self._token = BearerToken(token)
        self._max_retries = max_retries
        super().__init__(
            venue="http",
            base_url=self.url,
            key=token if isinstance(token, str) else "",
            journal=journal,
            max_retries=max_retries,
            backoff=backoff,
            absence_window_s=absence_window_s,
            classify=_classify,
            clock=clock,
            random=random,
        )

    def _normalise(self, order: OrderLike) -> dict[str, Any]:
        given = {
            "quantity" if name == "amount" else name for name, value in order.items() if value is not None
        }
        absent = {name: value for name, value in _STAND_INS.items() if name not in given}
        body = super()._normalise({**order, **absent})
        return {name: value for name, value in body.items() if name not in absent}

    # --- hooks -----------------------------------------------------------------------------------------

    async def _send(self, order: dict[str, Any], client_order_id: str) -> OrderResult:
        status, answer = await self._call(
            "POST", self.url, body=_ENCODER.encode(order), idempotency_key=client_order_id
        )
        return self._read(answer, client_order_id, status, order)

    async def _find(self, client_order_id: str, symbol: str | None) -> OrderResult | None:
        try:
            status, answer = await self._call("GET", f"{self.url}?client_order_id={client_order_id}")
        except HttpStatusError as error:
            if error.http_status == 404 and error.reason == "order_not_found":
                return None
            if classify_error(error).outcome is Outcome.FINAL:
                raise VenueUnavailable(f"lookup by client id: {error}") from error
            raise
        if answer == []:
            return None
        rows = answer if isinstance(answer, list) else [answer]
        for row in rows:
            if isinstance(row, Mapping) and row:
                found = self._read(row, "", status)
                if found.client_order_id == client_order_id or (len(rows) == 1 and not found.client_order_id):
                    found["client_order_id"] = client_order_id
                    return found
        raise VenueUnavailable("lookup by client id: the answer names other orders")

    async def _poll(
        self, order_id: str | None, client_order_id: str | None, symbol: str | None
    ) -> OrderResult | None:
        latest: OrderResult | None = None
        failure: VenueUnavailable | None = None
        for k in range(self._max_retries + 1):
            if k:
                await self.policy.pause(k)
            try:
                await self.policy.wait_turn()
                latest = await self._get(order_id, client_order_id)
            except OrderNotSent as error:
                raise VenueUnavailable(error.reason) from error
            except VenueUnavailable as error:
                failure = error
                continue
            if latest is None or latest.done:
                return latest
        if latest is None and failure is not None:
            raise failure
        return latest

    async def _get(self, order_id: str | None, client_order_id: str | None) -> OrderResult | None:
        """One GET: by broker id, else by client id."""
        try:
            if order_id is None:
                return await self._find(client_order_id or "", None)
            status, answer = await self._call("GET", self._of(order_id))
            return self._read(answer, client_order_id or "", status, order_id=order_id)
        except HttpStatusError as error:
            if error.http_status == 404:
                return None
            if error.retry_after_s is not None:
                self.policy.hold(error.retry_after_s)
            raise VenueUnavailable(str(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise VenueUnavailable(f"{type(error).__name__}: {error}") from error

    async def _cancel(self, order_id: str, symbol: str | None) -> OrderResult:
        try:
            status, answer = await self.policy.ask(lambda: self._call("DELETE", self._of(order_id)))
        except HttpStatusError as error:
            if error.http_status == 404:
                raise OrderNotFound(f"no order {order_id}") from error
            if error.http_status not in {409, 410}:
                raise CancelFailed(f"cancel of {order_id}: {error}") from error
            found = await self._poll(order_id, None, symbol)
            if found is None:
                raise OrderNotFound(f"no order {order_id}") from error
            return found
        if isinstance(answer, Mapping) and answer.get("status") is not None:
            return self._read(answer, "", status, order_id=order_id)
        word = "pending_cancel" if status == 202 else "canceled"
        return OrderResult({"id": order_id, "status": word}, http_status=status)

    # --- HTTP ------------------------------------------------------------------------------------------

    def _of(self, order_id: str) -> str:
        return f"{self.url}/{quote(order_id, safe='')}"

    async def _call(
        self, method: str, url: str, *, body: bytes | None = None, idempotency_key: str = ""
    ) -> tuple[int, Any]:
        """One request: its status and decoded JSON (None where it is none); HttpStatusError outside 2xx."""
        headers = await self._token.headers()
        if body is not None:
            headers |= {"Content-Type": "application/json", "Idempotency-Key": idempotency_key}
        limit_s = runtime.HTTP_TIMEOUT_SECONDS
        timeout = aiohttp.ClientTimeout(total=2 * limit_s, connect=limit_s, sock_read=limit_s)
        session = await BACKGROUND.session()
        async with session.request(
            method,
            URL(url, encoded=True),
            data=body,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
        ) as response:
            text = await response.read()
            try:
                answer = msgspec.json.decode(text)
            except msgspec.DecodeError:
                answer = None
            if 200 <= response.status < 300:
                return response.status, answer
            retry_after_s = parse_retry_after(response.headers.get("Retry-After"), self.clock)
            raise HttpStatusError(response.status, _reason(answer, text), retry_after_s)

    def _read(
        self,
        answer: Any,
        client_order_id: str,
        http_status: int,
        order: Mapping[str, Any] | None = None,
        *,
        order_id: str = "",
    ) -> OrderResult:
        fields = dict(answer) if isinstance(answer, Mapping) else {}
        if order_id:
            fields.setdefault("id", order_id)
        quantity = parse_decimal(order["quantity"], "quantity") if order and "quantity" in order else None
        try:
            return OrderResult(
                fields, client_order_id=client_order_id, quantity=quantity, http_status=http_status
            )
        except ValueError:
            # Numbers nobody can read do not make an answered order an unanswered one.
            words = {name: fields[name] for name in ("id", "client_order_id", "status") if name in fields}
            return OrderResult(
                words, client_order_id=client_order_id, quantity=quantity, http_status=http_status
            )


def _classify(error: Exception) -> Verdict:
    if isinstance(error, TokenUnavailable):
        return Verdict(Outcome.NOT_TAKEN, str(error))
    return classify_error(error)


def _reason(answer: Any, text: bytes) -> str:
    if isinstance(answer, Mapping):
        for name in ("code", "reason", "error", "message", "detail"):
            if isinstance(answer.get(name), str):
                return str(answer[name])
    return text[:200].decode("utf-8", "replace").strip() or "no reason given"
