"""A real HTTP broker in a process of its own, with a plan of faults per book; and the handle tests hold.

Every POST that is taken books an order, unless the plan says `dedup`: what is sent twice is there twice.
"""

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import Any

from aiohttp import web

ROOT = Path(__file__).parents[4]


class Book:
    """One account: its orders, what was asked, and what to do with the next requests."""

    def __init__(self) -> None:
        self.orders: list[dict[str, Any]] = []
        self.log: list[dict[str, Any]] = []
        self.plan: dict[str, list[str]] = {}
        self.always: dict[str, str] = {}
        self.status = "open"
        self.dedup = False
        self.hidden = 0
        self.is_held = True

    def take(self, method: str) -> str:
        steps = self.plan.get(method) or []
        return steps.pop(0) if steps else self.always.get(method, "ok")

    def book(self, body: dict[str, Any], key: str) -> dict[str, Any]:
        known = next((order for order in self.orders if order["client_order_id"] == key), None)
        if known is not None and self.dedup:
            return known
        order = {**body, "id": str(len(self.orders) + 1), "client_order_id": key, "status": self.status}
        order.pop("quantity", None)
        self.orders.append({**order, "quantity": body.get("quantity")})
        return self.orders[-1]


class Broker:
    def __init__(self) -> None:
        self.books: dict[str, Book] = defaultdict(Book)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        book = self.books[request.match_info["book"]]
        body = await request.json() if request.can_read_body else {}
        kind = request.method
        if kind == "GET" and "client_order_id" in request.query:
            kind = "LOOKUP"
        key = request.headers.get("Idempotency-Key", "")
        book.log.append({"kind": kind, "key": key, "body": body, "path": request.path_qs})
        step, _, argument = book.take(kind).partition(":")
        if step == "accept":
            book.book(body, key)
            step, _, argument = argument.partition(":")
        if step == "later":
            book.book(body, key)
            book.hidden = 1
            return web.Response(status=503)
        if step == "twice":
            book.book(body, key)
            step = "ok"
        if step == "hold":
            while book.is_held:
                await asyncio.sleep(0.005)
            return web.Response(status=504)
        if step == "wait":
            await asyncio.sleep(float(argument or 30))
            return web.Response(status=504)
        if step == "reset":
            assert request.transport is not None
            request.transport.abort()
            raise web.HTTPInternalServerError
        if step.isdigit():
            headers = {"Retry-After": argument} if argument else {}
            return web.json_response({"error": "as planned"}, status=int(step), headers=headers)
        return self.answer(book, kind, request, body, key)

    def answer(
        self, book: Book, kind: str, request: web.Request, body: dict[str, Any], key: str
    ) -> web.Response:
        if kind == "POST":
            return web.json_response(book.book(body, key), status=201)
        if kind == "LOOKUP":
            if book.hidden:
                book.hidden -= 1
                return web.json_response([])
            wanted = request.query["client_order_id"]
            return web.json_response([o for o in book.orders if o["client_order_id"] == wanted])
        found = next((o for o in book.orders if o["id"] == request.match_info.get("id")), None)
        if found is None:
            return web.json_response({"code": "order_not_found"}, status=404)
        if kind == "DELETE":
            if found["status"] not in {"open", "partially_filled"}:
                return web.json_response({"error": "not open"}, status=409)
            found["status"] = "canceled"
        return web.json_response(found)

    async def admin(self, request: web.Request) -> web.Response:
        book = self.books[request.match_info["book"]]
        if request.method == "PUT":
            for name, value in (await request.json()).items():
                setattr(book, name, value)
        return web.json_response({"orders": book.orders, "log": book.log})

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/admin/{book}", self.admin)
        app.router.add_route("*", "/{book}/orders", self.handle)
        app.router.add_route("*", "/{book}/orders/{id}", self.handle)
        return app


async def serve() -> None:
    runner = web.AppRunner(Broker().app())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    # The parent holds our stdin: its end is ours.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


class BrokerProcess:
    """Starts the broker and talks to its admin side."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.runtime.sdk.brokerage.http_broker"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.base = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        self.count = 0

    def open(self, **settings: Any) -> "BookHandle":
        self.count += 1
        handle = BookHandle(self.base, f"book{self.count}")
        handle.set(**settings)
        return handle

    def close(self) -> None:
        self.process.kill()
        self.process.wait(60)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


class BookHandle:
    """One test's own account at the broker."""

    def __init__(self, base: str, name: str) -> None:
        self.url = f"{base}/{name}/orders"
        self._admin = f"{base}/admin/{name}"

    def set(self, **settings: Any) -> None:
        data = json.dumps(settings).encode()
        urllib.request.urlopen(urllib.request.Request(self._admin, data, method="PUT"), timeout=60).close()

    def _state(self) -> dict[str, Any]:
        with urllib.request.urlopen(self._admin, timeout=60) as answer:
            state: dict[str, Any] = json.load(answer)
        return state

    @property
    def orders(self) -> list[dict[str, Any]]:
        orders: list[dict[str, Any]] = self._state()["orders"]
        return orders

    def asked(self, kind: str | None = None) -> list[dict[str, Any]]:
        return [one for one in self._state()["log"] if kind in {None, one["kind"]}]


if __name__ == "__main__":
    asyncio.run(serve())
