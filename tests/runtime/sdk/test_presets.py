"""SLA policies and presets: the shipped table, files of one's own, and one line for what is wrong."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from qmtl.config import ConfigError
from qmtl.runtime.sdk.conformance import BLOCKING
from qmtl.runtime.sdk.presets import load_presets
from qmtl.runtime.sdk.sla import SLA_PRESETS, SLAPolicy, SLAViolationMode

TABLE = {
    "baseline": (60_000, 3_000, 45_000, 5_000, 500, 0.98, 45, "partial_fill"),
    "strict": (60_000, 3_000, 45_000, 5_000, 500, 0.98, 45, "fail_fast"),
    "tolerant-partial": (90_000, 5_000, 75_000, 7_000, 1_000, 0.9, 90, "partial_fill"),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_shipped_policies(name: str) -> None:
    policy = SLA_PRESETS[name]
    assert TABLE[name] == (
        policy.total_deadline_ms,
        policy.max_wait_storage_ms,
        policy.max_wait_backfill_ms,
        policy.max_wait_live_ms,
        policy.retry_backoff_ms,
        policy.min_coverage,
        policy.max_lag_seconds,
        policy.on_violation,
    )
    assert load_presets().sla_policy(name) is policy


def test_nothing_limits_by_default_and_modes_are_coerced() -> None:
    limits = {field.name: field.default for field in fields(SLAPolicy)}
    assert limits.pop("on_violation") is SLAViolationMode.FAIL_FAST
    assert set(limits.values()) == {None}
    for text in ("HOLD", "hold", " Hold "):
        assert SLAPolicy(on_violation=text).on_violation is SLAViolationMode.HOLD  # type: ignore[arg-type]
    for text in ("partial-fill", "PARTIAL_FILL"):
        assert SLAViolationMode.parse(text) is SLAViolationMode.PARTIAL_FILL
    assert load_presets().sla_policy() is SLA_PRESETS["baseline"]
    assert load_presets().conformance_preset().block == frozenset(BLOCKING)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"on_violation": "fail"}, "on_violation 'fail' is not known; known: fail_fast, partial_fill, hold"),
        ({"max_wait_storage_ms": -1}, "max_wait_storage_ms: expected >= 0, got -1"),
        ({"total_deadline_ms": "1s"}, "total_deadline_ms: expected a number, got '1s'"),
        ({"max_sync_gap_bars": True}, "max_sync_gap_bars: expected a number, got True"),
        ({"max_lag_seconds": float("inf")}, "max_lag_seconds: expected a number, got inf"),
        ({"min_coverage": 98}, "min_coverage: expected 0 to 1, got 98"),
    ],
)
def test_a_bad_field_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared whole
        SLAPolicy(**given)
    assert str(caught.value) == message


def test_a_file_adds_and_replaces(tmp_path: Path) -> None:
    page = tmp_path / "presets.yml"
    page.write_text(
        "sla_presets:\n"
        "  strict: {total_deadline_ms: 100, on_violation: hold}\n"
        "  mine: {min_coverage: 1.0}\n"
        "conformance_presets:\n"
        "  no-gaps: {block: [gap, non_finite]}\n"
        "  loose: {partial_ok: true}\n"
    )
    presets = load_presets(page)
    assert presets.sla_policy("strict") == SLAPolicy(
        total_deadline_ms=100, on_violation=SLAViolationMode.HOLD
    )
    assert presets.sla_policy("mine").min_coverage == 1.0
    assert presets.sla_policy("baseline") is SLA_PRESETS["baseline"]
    assert presets.conformance_preset("no-gaps").block == {"gap", "non_finite"}
    assert presets.conformance_preset("loose").partial_ok
    page.write_text("")
    assert load_presets(page) == load_presets()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sla_preset: {}", "key 'sla_preset' is not known; known: sla_presets, conformance_presets; did you"),
        ("sla_presets: 3", "sla_presets: expected names with their fields"),
        ("sla_presets: {mine: 3}", "sla_presets.mine: expected fields, of max_wait_storage_ms"),
        ("sla_presets: {mine: {min_covrage: 1}}", "sla_presets.mine: field 'min_covrage' is not known"),
        ("sla_presets: {mine: {min_coverage: 2}}", "sla_presets.mine: min_coverage: expected 0 to 1, got 2"),
        ("conformance_presets: {m: {block: gap}}", "conformance_presets.m: block: expected a list of flags"),
        ("conformance_presets: {m: {block: [gab]}}", "flag 'gab' is not known"),
        ("conformance_presets: {m: {partial_ok: 1}}", "partial_ok: expected true or false, got 1"),
        ("[1]", "expected the keys sla_presets and conformance_presets"),
        ("a: [", "cannot be read: while parsing"),
    ],
)
def test_a_bad_file_is_one_line_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    page = tmp_path / "presets.yml"
    page.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_presets(page)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{page}: ")
    assert "\n" not in str(caught.value)


def test_unknown_names_suggest() -> None:
    with pytest.raises(ConfigError, match=r"seamless.sla_preset 'basline' .*; did you mean baseline\?"):
        load_presets().sla_policy("basline")
    with pytest.raises(ConfigError, match=r"seamless.conformance_preset 'x' is not known; known: strict"):
        load_presets().conformance_preset("x")
    with pytest.raises(ConfigError, match=r"nowhere.yml: cannot be read: .*No such file"):
        load_presets(Path("nowhere.yml"))
