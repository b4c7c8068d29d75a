"""Parameter sets proposed by Optuna's TPE, resumable from the rows of a results file."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from math import isfinite
from typing import Any

from qmtl.engine.sweep import Params, Row, SweepError, dump_set

REPEATS = 20
"""So many proposals in a row that are already known mean that the space is exhausted."""


class OptunaSampler:
    """Asks a seeded study for `total` sets; `score` reads a row's objective, larger is better.

    `space` holds the values each parameter may take: evenly spaced numbers become a range, anything else a
    choice. Known rows are told to the study first, so that a resumed search goes on. SweepError when Optuna
    is not installed.
    """

    def __init__(
        self,
        space: Mapping[str, Sequence[Any]],
        total: int,
        seed: int,
        score: Callable[[Row], float],
        done: Iterable[Row] = (),
    ) -> None:
        try:
            import optuna
        except ImportError as error:
            raise SweepError("--sampler optuna needs the extra: pip install 'qmtl[research]'") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna = optuna
        self._score = score
        self._space = {name: self._distribution(values) for name, values in space.items()}
        self._known: dict[str, Row] = {}
        self._trials: dict[str, Any] = {}
        rows = list(done)
        # Another seed for each resumption: the same one would propose its first sets again.
        sampler = optuna.samplers.TPESampler(seed=seed + len(rows), constant_liar=True)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self.total = total
        for row in rows:
            self._add(row)

    def _distribution(self, values: Sequence[Any]) -> Any:
        kinds = self._optuna.distributions
        steps = {round(b - a, 12) for a, b in pairwise(values)} if _are_numbers(values) else ()
        if len(steps) != 1 or len(values) < 2 or next(iter(steps)) <= 0:
            return kinds.CategoricalDistribution(tuple(values))
        (step,) = steps
        if all(isinstance(value, int) for value in values):
            return kinds.IntDistribution(values[0], values[-1], step=int(step))
        return kinds.FloatDistribution(float(values[0]), float(values[-1]), step=step)

    def _add(self, row: Row) -> None:
        """Tell the study of a row that it did not propose."""
        self._known[dump_set(row["params"])] = row
        value, trial = self._value(row), self._optuna.trial
        state = trial.TrialState.FAIL if value is None else trial.TrialState.COMPLETE
        params = {name: row["params"][name] for name in self._space}
        self._study.add_trial(
            trial.create_trial(state=state, value=value, params=params, distributions=self._space)
        )

    def _value(self, row: Row) -> float | None:
        value = self._score(row) if "result" in row else float("nan")
        return value if isfinite(value) else None

    def propose(self, worker: int) -> Params | None:
        """See Sampler."""
        for _ in range(REPEATS):
            if len(self._known) + len(self._trials) >= self.total:
                return None
            trial = self._study.ask(self._space)
            # A stepped float comes back as a sum of steps; rounded it is the value that was written.
            params = {n: round(v, 12) if isinstance(v, float) else v for n, v in trial.params.items()}
            key = dump_set(params)
            if key in self._trials:
                self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
            elif key in self._known:
                self._settle(trial, self._known[key])
            else:
                self._trials[key] = trial
                return params
        self.total = len(self._known) + len(self._trials)
        return None

    def tell(self, row: Row) -> None:
        """See Sampler."""
        key = dump_set(row["params"])
        self._known[key] = row
        self._settle(self._trials.pop(key), row)

    def _settle(self, trial: Any, row: Row) -> None:
        value = self._value(row)
        if value is None:
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(trial, value)


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
