"""A sweep as lines for people: verdict, walk-forward table, best sets, heat map, and the file it saves."""

from collections.abc import Mapping, Sequence
from math import isfinite, isnan, nan
from typing import TYPE_CHECKING, Any

from qmtl.cli.backtest_text import coverage_text, moment

if TYPE_CHECKING:
    from qmtl.engine.statistics import Period
    from qmtl.engine.sweep_verdict import Verdict
    from qmtl.runtime.sdk.sweep_job import SweepJob

SHADES = " ░▒▓█"
SHOWN_FAILURES = 3


def number(value: float, places: int = 1) -> str:
    """Return a figure with a true minus, a dash where there is none."""
    if not isfinite(value):
        return "–"
    text = f"{abs(value):,.{places}f}"
    return f"−{text}" if value < 0 and float(text.replace(",", "")) else text


def describe_data(job: "SweepJob") -> str:
    """Return how whole the data was and what was assumed, as `qmtl backtest` says it."""
    history = job.histories[job.symbol]
    left = history.without(job.excluded)
    count, expected = sum(len(part.bars) for part in left), sum(part.expected for part in left)
    bars = f"{count:,} bars ({coverage_text(count, expected)} %"
    found = [hole for part in left for hole in part.holes]
    holes = (
        f" · {len(found):,} hole{'' if len(found) == 1 else 's'}, first {moment(found[0].start_ms)}"
        if found
        else ""
    )
    return f"{bars}, {history.fingerprint[:11]}…) · {job.terms.describe()} · {job.plan.describe()}{holes}"


def describe_over_holes(rows: Sequence[Mapping[str, Any]], job: "SweepJob") -> str:
    """Return how many sets trade over missing candles and where the first are missing; empty for none."""
    over = sum(any(part["over_holes"] for part in _parts(row)) for row in rows)
    if not over:
        return ""
    left = job.histories[job.symbol].without(job.excluded)
    first = min(hole.start_ms for part in left for hole in part.holes)
    trade = "set trades" if over == 1 else "sets trade"
    return f"{over:,} {trade} over missing candles, first {moment(first)}"


def _parts(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*row["result"]["train"], *row["result"]["test"]] if "result" in row else []


def dump_set(params: Mapping[str, Any]) -> str:
    """Return parameters as they are written on the command line."""
    return " ".join(f"{name}={value}" for name, value in params.items())


def dump_verdict(verdict: "Verdict", seconds: float) -> str:
    """Return the last word: how many sets, the best out of sample, and whether that is more than luck."""
    best = f"best out-of-sample {number(verdict.best_sharpe)}, deflated {number(verdict.deflated)}"
    took = f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
    return f"{verdict.sets:,} sets × {verdict.splits} splits · {took} · {best}: {verdict.words}"


def describe_sweep(verdict: "Verdict") -> list[str]:
    """Return what stands behind the verdict."""
    if verdict.best is None:
        return []
    low, high = verdict.interval
    best = f"best: {dump_set(verdict.best)} · Sharpe {number(verdict.best_sharpe)}"
    forward = f"walk forward (chosen in training): Sharpe {number(verdict.forward)}"
    return [
        f"{best} [{number(low)}, {number(high)}] · luck alone shows {number(verdict.luck)}",
        f"{forward} · probability of overfitting {percent(verdict.overfitting)}",
    ]


def percent(share: float) -> str:
    """Return a probability in percent."""
    return f"{100 * share:.0f} %" if isfinite(share) else "–"


def describe_failures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the first failures with their sets, and how many more there are."""
    failed = [row for row in rows if "error" in row]
    if not failed:
        return []
    lines = [f"failed: {dump_set(row['params'])}: {row['error']}" for row in failed[:SHOWN_FAILURES]]
    more = len(failed) - SHOWN_FAILURES
    return [*lines, f"… and {more:,} more failed sets"] if more > 0 else lines


def draw_table(verdict: "Verdict") -> list[str]:
    """Return the out-of-sample table: for each split the set chosen in training, and what its test gave."""
    if not verdict.choices:
        return []
    head = ("split", "chosen in training", "train", "test", "return", "trades")
    body = [
        (
            str(one.split + 1), dump_set(one.params), number(one.train_sharpe), number(one.test_sharpe),
            f"{number(100 * one.test_return)} %", f"{one.trades:,}",
        )
        for one in verdict.choices
    ]  # fmt: skip
    widths = [max(len(row[at]) for row in (head, *body)) for at in range(len(head))]
    aligned = []
    for row in (head, *body):
        cells = [
            cell.ljust(width) if at == 1 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        aligned.append("  ".join(cells).rstrip())
    return aligned


def best_by(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], period: "Period"
) -> dict[tuple[Any, ...], float]:
    """Return the best out-of-sample ratio for each combination of the parameters `names`."""
    from qmtl.engine.sweep_verdict import test_ratio

    found: dict[tuple[Any, ...], float] = {}
    for row in rows:
        if "result" in row:
            key = tuple(row["params"][name] for name in names)
            ratio, known = test_ratio(row, period), found.get(key, nan)
            found[key] = ratio if isnan(known) else max(known, ratio)
    return found


def draw_map(
    rows: Sequence[Mapping[str, Any]], space: Mapping[str, Sequence[Any]], period: "Period"
) -> list[str]:
    """Return the out-of-sample Sharpe ratio over the first two parameters, the best of any others.

    Each cell holds its figure and a shade from lowest to highest.
    """
    names = list(space)[:2]
    cells = best_by(rows, names, period)
    known = [value for value in cells.values() if isfinite(value)]
    if not known:
        return []
    low, high = min(known), max(known)

    def cell(*key: Any) -> str:
        value = cells.get(key, nan)
        if not isfinite(value):
            return "–"
        share = (value - low) / (high - low) if high > low else 1.0
        return f"{number(value)}{SHADES[round(share * (len(SHADES) - 1))]}"

    if len(names) == 1:
        table = [[str(value), cell(value)] for value in space[names[0]]]
        title = f"Sharpe out of sample by {names[0]}"
    else:
        down, across = space[names[0]], space[names[1]]
        table = [["", *map(str, across)], *([str(one), *(cell(one, two) for two in across)] for one in down)]
        title = f"Sharpe out of sample: {names[0]} down, {names[1]} across"
    others = ", ".join(list(space)[2:])
    if others:
        title += f", the best over {others}"
    widths = [max(len(row[at]) for row in table) for at in range(len(table[0]))]
    lines = [
        "  ".join(value.rjust(width) for value, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    return [title, *lines]


def dump_params_file(
    verdict: "Verdict", params: Mapping[str, Any], label: str, sha256: str, fingerprint: str, folder: str
) -> str:
    """Return the YAML text of a saved set, which --params takes, with what is known of it."""
    import yaml

    low, high = verdict.interval
    body = {
        "strategy": label,
        "sha256": sha256,
        "params": dict(params),
        "found": {
            "sets": verdict.sets,
            "splits": verdict.splits,
            "sharpe_out_of_sample": round(verdict.best_sharpe, 4),
            "interval": [round(low, 4), round(high, 4)],
            "deflated_sharpe": round(verdict.deflated, 4),
            "verdict": verdict.words,
            "data": fingerprint,
            "sweep": folder,
        },
    }
    return yaml.safe_dump(body, sort_keys=False, allow_unicode=True)
