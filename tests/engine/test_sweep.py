"""Sweeps: every set once, kept on disk as it is done, gone on from after a kill; failures stop nothing."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qmtl.engine.crew import CrewError, InlineCrew, Outcome, Plain, ProcessCrew, Workload, ignoring_interrupts
from qmtl.engine.optuna_sampler import OptunaSampler
from qmtl.engine.sweep import GridSampler, SweepError, SweepFile, build_grid, dump_set, run_sweep, without_nan
from tests.engine.sweep_rig import FACTORY, SPACE, result_of

ROOT = Path(__file__).resolve().parents[2]
GRID = build_grid(SPACE)


class OneCrew:
    """Evaluates in place and remembers what it was given."""

    size = 1

    def __init__(self) -> None:
        self.seen: list[Plain] = []

    def send(self, worker: int, params: Plain) -> None:
        self.seen.append(params)

    def wait(self) -> Sequence[Outcome]:
        return [Outcome(0, result_of(self.seen[-1]))]

    def close(self) -> None:
        pass


def test_grid_has_every_combination_the_last_fastest() -> None:
    assert len(GRID) == 12
    assert GRID[:4] == [{"a": 1, "b": 0.5}, {"a": 1, "b": 1.0}, {"a": 1, "b": 1.5}, {"a": 2, "b": 0.5}]


def test_workers_keep_to_sets_that_share_what_they_computed() -> None:
    sampler = GridSampler(GRID)
    given: dict[int, list[int]] = {0: [], 1: []}
    for _ in range(6):
        for worker in (0, 1):
            given[worker].append((sampler.propose(worker) or {})["a"])
    assert given == {0: [1, 1, 1, 3, 3, 3], 1: [2, 2, 2, 4, 4, 4]}
    assert sampler.propose(0) is None
    alone = GridSampler(GRID[:3])
    assert [(alone.propose(w) or {})["b"] for w in (0, 1, 0)] == [0.5, 1.0, 1.5]


def test_rows_survive_with_params_result_and_stamp(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "sweep.jsonl"
    results = SweepFile(path, {"data": "sha256:1", "splits": [(0, 1)]})
    stamp = {"data": "sha256:1", "seed": 7, "version": "0.1.0"}
    rows = list(run_sweep(GridSampler(GRID), OneCrew(), results, stamp))
    results.close()
    assert len(rows) == 12
    assert rows[0].keys() == {"params", "data", "seed", "version", "result"}
    again = SweepFile(path, {"data": "sha256:1", "splits": [[0, 1]]})
    assert again.rows == json.loads(json.dumps(rows))
    again.close()


def test_another_sweeps_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    SweepFile(path, {"sha256": "a", "bars": 5}).close()
    with pytest.raises(SweepError, match=r"sweep\.jsonl: bars is 6 now and was 5; use another directory"):
        SweepFile(path, {"sha256": "a", "bars": 6})
    path.write_text("hello\n")
    with pytest.raises(SweepError, match="not a sweep's results"):
        SweepFile(path, {"sha256": "a"})


def test_a_row_cut_off_by_a_kill_is_dropped_and_done_again(tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    results = SweepFile(path, {"x": 1})
    list(run_sweep(GridSampler(GRID[:5]), OneCrew(), results, {}))
    results.close()
    whole = path.read_bytes()
    for cut in (1, 7, len(whole.splitlines()[-1])):
        path.write_bytes(whole[:-cut])
        results = SweepFile(path, {"x": 1})
        assert len(results.rows) == 4
        crew = OneCrew()
        list(run_sweep(GridSampler(GRID[:5], results.rows), crew, results, {}))
        results.close()
        assert crew.seen == [GRID[4]]
        assert path.read_bytes() == whole


def test_failing_sets_and_dying_workers_are_rows_and_the_rest_goes_on(tmp_path: Path) -> None:
    crew = ProcessCrew(Workload(FACTORY, {"fails_at": 2, "dies_at": 3}), 2)
    with closing(crew), closing(SweepFile(tmp_path / "sweep.jsonl", {})) as results:
        rows = list(run_sweep(GridSampler(GRID), crew, results, {}))
    errors = {row["params"]["a"]: row["error"] for row in rows if "error" in row}
    assert len(rows) == 12
    assert errors == {
        2: "ZeroDivisionError: float division",
        3: "its process ended (exit code 9); out of memory?",
    }
    assert sum("result" in row for row in rows) == 6


def test_one_worker_in_this_process_reports_the_same(tmp_path: Path) -> None:
    with closing(SweepFile(tmp_path / "sweep.jsonl", {})) as results:
        crew = InlineCrew(Workload(FACTORY, {"fails_at": 2}))
        rows = list(run_sweep(GridSampler(GRID), crew, results, {}))
    assert {row["params"]["a"] for row in rows if "error" in row} == {2}
    assert len(rows) == 12
    with pytest.raises(CrewError, match="ValueError: no data in here"):
        InlineCrew(Workload(FACTORY, {"broken": True}))


def test_a_worker_that_cannot_open_its_data_says_why() -> None:
    with pytest.raises(CrewError, match="ValueError: no data in here"):
        ProcessCrew(Workload(FACTORY, {"broken": True}), 2)


def test_a_sweep_killed_by_sigkill_goes_on_where_it_was(tmp_path: Path) -> None:
    path, log = tmp_path / "sweep.jsonl", tmp_path / "log"
    command = [sys.executable, "-m", "tests.engine.sweep_rig", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(5):
            assert process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    crew = ProcessCrew(Workload(FACTORY, {"log": str(log)}), 2)
    with closing(crew), closing(SweepFile(path, {"sweep": "one"})) as results:
        before = {dump_set(row["params"]) for row in results.rows}
        assert len(before) >= 5
        rows = list(run_sweep(GridSampler(GRID, results.rows), crew, results, {"seed": 1}))
    assert {dump_set(row["params"]) for row in rows} == {dump_set(one) for one in GRID} - before
    assert len(log.read_text().splitlines()) == 12 - len(before)
    with closing(SweepFile(path, {"sweep": "one"})) as results:
        assert {dump_set(row["params"]) for row in results.rows} == {dump_set(one) for one in GRID}


def score(row: Plain) -> float:
    value: float = row["result"]["train"][0]["sharpe"]
    return value


def test_optuna_finds_the_best_region_and_resumes_from_rows(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    space: dict[str, Sequence[Any]] = {"a": list(range(1, 21)), "b": [0.5, 1.0, 1.5], "kind": ["x", "y"]}

    class Hill(OneCrew):
        def wait(self) -> Sequence[Outcome]:
            params = self.seen[-1]
            if params["kind"] == "y" and params["a"] == 7:
                return [Outcome(0, None, "ValueError: no")]
            ratio = -abs(params["a"] - 14) + params["b"] + (params["kind"] == "x")
            return [Outcome(0, {"train": [{"sharpe": ratio}]})]

    with closing(SweepFile(tmp_path / "sweep.jsonl", {})) as results:
        rows = list(run_sweep(OptunaSampler(space, 30, 7, score), Hill(), results, {}))
        assert len({dump_set(row["params"]) for row in rows}) == 30
        assert all(row["params"]["b"] in space["b"] for row in rows)
        sampler = OptunaSampler(space, 45, 7, score, results.rows)
        more = list(run_sweep(sampler, Hill(), results, {}))
        assert len(more) == 15
        best = max((row for row in results.rows if "result" in row), key=score)
    assert abs(best["params"]["a"] - 14) <= 1
    assert np.median([abs(row["params"]["a"] - 14) for row in more]) <= 4
    with closing(SweepFile(tmp_path / "again.jsonl", {})) as results:
        same = run_sweep(OptunaSampler(space, 8, 7, score), Hill(), results, {})
        assert [row["params"] for row in same] == [row["params"] for row in rows[:8]]


def test_optuna_ends_when_every_set_is_known(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    sampler = OptunaSampler({"a": [1, 2], "b": [0.5]}, 50, 7, score)
    with closing(SweepFile(tmp_path / "sweep.jsonl", {})) as results:
        rows = list(run_sweep(sampler, OneCrew(), results, {}))
    assert sorted(row["params"]["a"] for row in rows) == [1, 2]


def test_what_json_has_no_word_for_is_null() -> None:
    body: Any = {"a": [float("nan"), 1.5], "b": (float("inf"), {"c": "x"})}
    assert without_nan(body) == {"a": [None, 1.5], "b": [None, {"c": "x"}]}


def test_a_worker_is_deaf_to_ctrl_c_from_its_first_moment() -> None:
    """A terminal's Ctrl-C reaches a child that has not come to `serve` yet: it would print a traceback."""
    before = signal.getsignal(signal.SIGINT)
    asked = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    with ignoring_interrupts():
        told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert told.stdout == "True\n"
    assert signal.getsignal(signal.SIGINT) is before
