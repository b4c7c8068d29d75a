"""The table of decisions and the rules of updates, row by row (connectors.md §6)."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl.runtime.sdk.activation_state import (
    ALLOWED,
    Activation,
    Move,
    Outcome,
    SideState,
    Standing,
    find_move,
    find_target,
)

TABLE = [
    # condition, opening, closing, cancel: the contract's rows in its order
    (Standing.UNTRUSTED, False, False, True),
    (Standing.FROZEN, False, False, True),
    (Standing.DRAINING, False, True, True),
    (Standing.INACTIVE, False, True, True),
    (Standing.ACTIVE, True, True, True),
]


@pytest.mark.parametrize(("standing", "opening", "closing", "cancel"), TABLE)
def test_the_table(standing: Standing, opening: bool, closing: bool, cancel: bool) -> None:
    passes = ALLOWED[standing]
    assert (Move.OPENING in passes, Move.CLOSING in passes, Move.CANCEL in passes) == (
        opening,
        closing,
        cancel,
    )


@given(st.tuples(*[st.booleans()] * 6))
def test_the_first_row_that_matches_counts(flags: tuple[bool, ...]) -> None:
    active_long, active_short, freeze_long, freeze_short, drain_long, drain_short = flags
    state = Activation(
        SideState(active_long, freeze=freeze_long, drain=drain_long),
        SideState(active_short, freeze=freeze_short, drain=drain_short),
    )
    for target, active in (("long", active_long), ("short", active_short)):
        wanted = Standing.ACTIVE if active else Standing.INACTIVE
        if drain_long or drain_short:
            wanted = Standing.DRAINING
        if freeze_long or freeze_short:
            wanted = Standing.FROZEN
        assert state.stand(target) is wanted


@pytest.mark.parametrize(
    ("side", "target"),
    [("BUY", "long"), ("long", "long"), (" Sell ", "short"), ("SHORT", "short")],
)
def test_sides(side: str, target: str) -> None:
    assert find_target(side) == target


@pytest.mark.parametrize("side", [None, "", "hold", 1, True])
def test_sides_that_are_none(side: object) -> None:
    with pytest.raises(ValueError, match="side: expected"):
        find_target(side)


@pytest.mark.parametrize(
    ("order", "position", "is_spot", "move"),
    [
        ({"side": "SELL", "quantity": 1}, None, False, Move.OPENING),
        ({"side": "SELL", "quantity": 1}, 1, False, Move.CLOSING),
        ({"side": "SELL", "amount": 0.4}, "0.4", False, Move.CLOSING),
        ({"side": "SELL", "quantity": -1}, 1.0, False, Move.CLOSING),
        ({"side": "SELL", "quantity": 2}, 1, False, Move.OPENING),
        ({"side": "SELL", "quantity": 1}, -1, False, Move.OPENING),
        ({"side": "SELL", "quantity": 1}, 0, False, Move.OPENING),
        ({"side": "BUY", "quantity": 1}, -1, False, Move.CLOSING),
        ({"side": "BUY", "quantity": 1}, 1, False, Move.OPENING),
        ({"side": "SELL"}, 1, False, Move.OPENING),
        ({"side": "SELL", "quantity": 9, "reduce_only": True}, None, False, Move.CLOSING),
        ({"side": "SELL", "quantity": 9, "reduceOnly": True}, None, False, Move.CLOSING),
        ({"side": "SELL", "quantity": 9, "reduce_only": "true"}, None, False, Move.OPENING),
        ({"side": "SELL", "quantity": 9, "position_side": "LONG"}, None, False, Move.CLOSING),
        ({"side": "BUY", "quantity": 9, "positionSide": "short"}, None, False, Move.CLOSING),
        ({"side": "BUY", "quantity": 9, "position_side": "LONG"}, -9, False, Move.OPENING),
        ({"side": "SELL", "quantity": 9, "position_side": "SHORT"}, 9, False, Move.OPENING),
        ({"side": "SELL", "quantity": 9}, None, True, Move.CLOSING),
        ({"side": "BUY", "quantity": 9}, None, True, Move.OPENING),
        ({"action": "cancel", "id": "7"}, None, False, Move.CANCEL),
    ],
)
def test_what_an_order_does(order: dict[str, Any], position: Any, is_spot: bool, move: Move) -> None:
    assert find_move(order, position, is_spot=is_spot) is move


def test_an_update_without_side_holds_for_both_and_fields_it_does_not_name_stay() -> None:
    state, outcome = Activation().update({"side": "long", "active": True, "weight": 0.3}, is_http=False)
    assert outcome is Outcome.APPLIED
    state, _ = state.update({"freeze": True, "effective_mode": "live"}, is_http=False)
    assert state.long == SideState(active=True, weight=0.3, freeze=True)
    assert state.short == SideState(active=False, freeze=True)
    assert state.domain == "live"


@pytest.mark.parametrize(("weight", "kept"), [(0, 0.0), (0.25, 0.25), (1, 1.0), (7, 1.0), (-1, 0.0)])
def test_weights_lie_between_nought_and_one(weight: float, kept: float) -> None:
    state, _ = Activation().update({"side": "short", "active": True, "weight": weight}, is_http=False)
    assert state.short.weight == kept


@pytest.mark.parametrize(
    "payload",
    [
        {"side": "long", "active": "false"},
        {"side": "long", "active": 1},
        {"side": "long", "freeze": None},
        {"drain": "no"},
        {"side": "long", "active": True, "weight": "heavy"},
        {"side": "long", "active": True, "weight": float("nan")},
        {"side": "long", "active": True, "sequence": "5"},
        {"side": "long", "active": True, "sequence": True},
        {"side": "long", "active": True, "effective_mode": 7},
        {"side": "sideways", "active": True},
    ],
)
def test_an_update_of_a_wrong_kind_changes_nothing_but_the_trust(payload: dict[str, Any]) -> None:
    before, _ = Activation().update({"active": True}, is_http=False)
    state, outcome = before.update(payload, is_http=False)
    assert outcome is Outcome.SUSPECT
    assert state.is_suspect
    assert state.long.active
    assert state.short.active
    state, _ = state.update({"active": False}, is_http=False)
    assert not state.is_suspect


@pytest.mark.parametrize(
    ("sequence", "is_http", "outcome"),
    [
        (6, False, Outcome.APPLIED),
        (6, True, Outcome.APPLIED),
        (5, False, Outcome.DISCARDED),
        (5, True, Outcome.RENEWED),
        (4, False, Outcome.DISCARDED),
        (4, True, Outcome.SUSPECT),
        (None, False, Outcome.SUSPECT),
    ],
)
def test_the_order_of_updates(sequence: int | None, is_http: bool, outcome: Outcome) -> None:
    before, _ = Activation().update({"side": "long", "active": True, "sequence": 5}, is_http=False)
    update = {"side": "long", "active": False, "sequence": sequence}
    state, found = before.update(update, is_http=is_http)
    assert found is outcome
    assert state.long.active is (outcome is not Outcome.APPLIED)
    assert state.is_suspect is (outcome is Outcome.SUSPECT)
    assert state.short == before.short


@given(st.permutations(range(1, 6)))
def test_whatever_the_order_of_arrival_the_last_word_stands(sequences: list[int]) -> None:
    state = Activation()
    for sequence in itertools.chain(sequences, sequences):
        update = {"active": sequence == 5, "weight": sequence / 10, "sequence": sequence}
        state, _ = state.update(update, is_http=False)
    assert (state.long.active, state.short.weight, state.long.sequence) == (True, 0.5, 5)
