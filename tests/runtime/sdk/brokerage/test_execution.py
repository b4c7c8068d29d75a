"""connectors.md §10, item 28: every domain against every reach."""

from collections.abc import Callable
from typing import Any

import pytest

from qmtl.engine.ports import Reach
from qmtl.runtime.sdk.brokerage.execution import (
    ExecutionContext,
    check_reach,
    is_allowed,
    parse_domain,
    running,
    set_default_context,
)
from qmtl.runtime.sdk.brokerage.fake_client import FakeBrokerageClient
from qmtl.runtime.sdk.brokerage.result import DomainViolation
from tests.runtime.sdk.brokerage.http_broker import BookHandle
from tests.runtime.sdk.brokerage.orders import buy, client_of

REACHES: tuple[Reach, ...] = ("memory", "sandbox", "live")
ALLOWED = {
    "backtest": {"memory"},
    "dryrun": {"memory", "sandbox"},
    "paper": {"memory", "sandbox"},
    "shadow": set(),
    "live": {"memory", "sandbox", "live"},
}


@pytest.mark.parametrize("domain", ALLOWED)
@pytest.mark.parametrize("reach", REACHES)
def test_28_domains_and_reaches(domain: str, reach: Reach) -> None:
    order = {"execution_domain": domain}
    if reach in ALLOWED[domain]:
        check_reach(order, reach)
    else:
        with pytest.raises(DomainViolation, match=reach):
            check_reach(order, reach)
    known = parse_domain(domain)
    assert known is not None
    assert is_allowed(known, reach) is (reach in ALLOWED[domain])
    assert is_allowed(known, reach, is_replay=True) is (reach == "memory")


def test_28_a_direct_call_without_any_domain_passes(book: BookHandle) -> None:
    assert client_of(book).post_order(buy()).id == "1"


def test_28_a_post_inside_a_backtest_context_is_refused(
    book: BookHandle, configure: Callable[..., None]
) -> None:
    client = client_of(book)
    with running(ExecutionContext("backtest")):
        with pytest.raises(DomainViolation):
            client.post_order(buy())
        with pytest.raises(DomainViolation):
            client.post_order(buy(execution_domain="live"))
        assert FakeBrokerageClient().post_order(buy()).done
    set_default_context(ExecutionContext("live", is_replay=True))
    with pytest.raises(DomainViolation, match="replay"):
        client.post_order(buy())
    set_default_context(ExecutionContext())
    configure(QMTL_CONNECTORS__EXECUTION_DOMAIN="shadow")
    with pytest.raises(DomainViolation):
        client.post_order(buy())
    with pytest.raises(DomainViolation):
        FakeBrokerageClient().post_order(buy())
    assert client.post_order(buy(execution_domain="live")).id == "1"
    assert len(book.asked()) == 1
    assert "execution_domain" not in book.asked()[0]["body"]


async def test_28_the_async_twin_sees_its_own_tasks_context(book: BookHandle) -> None:
    client = client_of(book)
    with running(ExecutionContext("dryrun")), pytest.raises(DomainViolation):
        await client.post_order_async(buy())
    assert (await client.post_order_async(buy())).id == "1"


@pytest.mark.parametrize("value", ["moon", "", 7])
def test_a_domain_that_is_none(value: Any) -> None:
    with pytest.raises(DomainViolation, match="execution_domain"):
        parse_domain(value)
