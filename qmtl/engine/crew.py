"""Workers that evaluate parameter sets side by side: processes of this machine, or Ray's.

A worker is made by a factory named as text, once, and then asked for one set after another. What it raises
comes back as a failure of that set; a worker that dies fails the set it had and is replaced.
"""

import importlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Protocol, cast

Plain = Mapping[str, Any]
Evaluate = Callable[[Plain], dict[str, Any]]


class CrewError(RuntimeError):
    """Workers cannot be started."""


class Workload(NamedTuple):
    """How a worker is made: `module:function` called with `config` returns what evaluates a set."""

    factory: str
    config: Plain

    def open(self) -> Evaluate:
        """Make the worker here."""
        module, _, name = self.factory.partition(":")
        return cast("Evaluate", getattr(importlib.import_module(module), name)(self.config))


class Outcome(NamedTuple):
    """What became of one set: a result, or what went wrong with it."""

    worker: int
    result: dict[str, Any] | None
    error: str = ""


class Crew(Protocol):
    """Workers numbered from 0, each with at most one set at a time."""

    size: int

    def send(self, worker: int, params: Plain) -> None:
        """Give an idle worker its next set."""

    def wait(self) -> Sequence[Outcome]:
        """Wait until at least one worker is done."""

    def close(self) -> None:
        """Stop every worker."""


def describe_failure(error: Exception) -> str:
    """Say in one line what user code raised."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def serve(workload: Workload, pipe: Connection) -> None:
    """Evaluate sets that come down `pipe` until it closes; the first answer says whether it is ready."""
    # Ctrl-C reaches every process of a terminal; the one that was started stops the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        evaluate = workload.open()
    except Exception as error:  # noqa: BLE001 - whatever an author's code raises fails its set
        pipe.send((False, describe_failure(error)))
        return
    pipe.send((True, None))
    while True:
        try:
            params = pipe.recv()
        except (EOFError, ConnectionError):
            return
        answer: tuple[bool, Any]
        try:
            answer = (True, evaluate(params))
        except Exception as error:  # noqa: BLE001 - whatever an author's code raises fails its set
            answer = (False, describe_failure(error))
        try:
            pipe.send(answer)
        except ConnectionError:
            # Whoever asked was interrupted meanwhile and is gone.
            return


class InlineCrew:
    """One worker, in this process: nothing to start, and nothing that survives a crash of it."""

    size = 1

    def __init__(self, workload: Workload) -> None:
        """Make the worker; CrewError when that fails."""
        try:
            self._evaluate = workload.open()
        except Exception as error:
            raise CrewError(describe_failure(error)) from error
        self._waiting: list[Plain] = []

    def send(self, worker: int, params: Plain) -> None:
        """See Crew."""
        self._waiting.append(params)

    def wait(self) -> Sequence[Outcome]:
        """See Crew."""
        try:
            return [Outcome(0, self._evaluate(self._waiting.pop()))]
        except Exception as error:  # noqa: BLE001 - whatever an author's code raises fails its set
            return [Outcome(0, None, describe_failure(error))]

    def close(self) -> None:
        """See Crew."""


@contextmanager
def ignoring_interrupts() -> Iterator[None]:
    """Start children that never saw Ctrl-C: `serve` may come too late to ignore it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class ProcessCrew:
    """Processes of this machine."""

    def __init__(self, workload: Workload, size: int) -> None:
        """Start `size` of them; CrewError when one cannot make its worker."""
        self.size = size
        self._workload = workload
        self._context = get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        self._busy: set[int] = set()
        try:
            for number in range(size):
                self._start(number)
            for number in range(size):
                self._greet(number)
        except BaseException:
            self.close()
            raise

    def _start(self, number: int) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=serve, args=(self._workload, theirs), daemon=True)
        with ignoring_interrupts():
            process.start()
        theirs.close()
        if number < len(self._pipes):
            self._pipes[number], self._processes[number] = ours, process
        else:
            self._pipes.append(ours)
            self._processes.append(process)

    def _greet(self, number: int) -> None:
        try:
            is_ready, error = self._pipes[number].recv()
        except EOFError:
            is_ready, error = False, "a worker process ended before it was ready"
        if not is_ready:
            raise CrewError(error)

    def send(self, worker: int, params: Plain) -> None:
        """See Crew."""
        self._busy.add(worker)
        self._pipes[worker].send(params)

    def wait(self) -> list[Outcome]:
        """See Crew."""
        ready = wait([self._pipes[worker] for worker in self._busy])
        return [self._collect(worker) for worker in sorted(self._busy) if self._pipes[worker] in ready]

    def _collect(self, worker: int) -> Outcome:
        self._busy.discard(worker)
        try:
            is_done, answer = self._pipes[worker].recv()
        except (EOFError, ConnectionError):
            self._pipes[worker].close()
            self._processes[worker].join(5)
            code = self._processes[worker].exitcode
            self._start(worker)
            self._greet(worker)
            return Outcome(worker, None, f"its process ended (exit code {code}); out of memory?")
        return Outcome(worker, answer) if is_done else Outcome(worker, None, answer)

    def close(self) -> None:
        """See Crew."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            # An idle worker ends at once; whatever a busy one is at, nobody waits for it.
            process.join(0.5)
            if process.is_alive():
                process.terminate()
                process.join(2)


def _start_ray(ray: Any, options: Mapping[str, Any]) -> None:
    """Start or join a cluster; CrewError where Ray says no twice: a busy machine may miss its 30 s once."""
    # Nothing a trader computes is reported to anybody; Ray has no public switch but the environment.
    from ray._common.usage import usage_lib

    usage_lib.set_usage_stats_enabled_via_env_var(False)
    for is_last in (False, True):
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **options)
        except Exception as error:
            # Whatever did start is taken down, or the next attempt would join half a cluster.
            ray.shutdown()
            if is_last:
                raise CrewError(f"Ray did not start: {error}") from error
        else:
            return


class RayCrew:
    """Actors of a Ray cluster, on this machine or many; the workload's files must be readable on each."""

    def __init__(self, workload: Workload, size: int, address: str | None = None) -> None:
        """Join the cluster at `address` (None: one of this machine) and start `size` actors."""
        try:
            import ray
        except ImportError as error:
            raise CrewError("--engine ray needs the extra: pip install 'qmtl[ray]'") from error
        self._ray: Any = ray
        self._is_owner = not ray.is_initialized()
        if self._is_owner:
            _start_ray(ray, {"num_cpus": size} if address is None else {"address": address})
        self.size = size
        self._make: Any = self._ray.remote(_Actor)
        self._workload = workload
        self._actors = [self._make.remote(*workload) for _ in range(size)]
        self._running: dict[Any, int] = {}

    def send(self, worker: int, params: Plain) -> None:
        """See Crew."""
        self._running[self._actors[worker].evaluate.remote(dict(params))] = worker

    def wait(self) -> list[Outcome]:
        """See Crew."""
        done, _ = self._ray.wait(list(self._running), num_returns=1)
        outcomes = []
        for reference in done:
            worker = self._running.pop(reference)
            try:
                is_done, answer = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                self._actors[worker] = self._make.remote(*self._workload)
                is_done, answer = False, describe_failure(error)
            outcomes.append(Outcome(worker, answer) if is_done else Outcome(worker, None, answer))
        return outcomes

    def close(self) -> None:
        """See Crew."""
        if self._is_owner:
            self._ray.shutdown()


class _Actor:
    """What runs inside Ray: a worker that answers as `serve` does."""

    def __init__(self, factory: str, config: Plain) -> None:
        self._evaluate = Workload(factory, config).open()

    def evaluate(self, params: Plain) -> tuple[bool, Any]:
        """Return (True, result) or (False, what went wrong)."""
        try:
            return True, self._evaluate(params)
        except Exception as error:  # noqa: BLE001 - whatever an author's code raises fails its set
            return False, describe_failure(error)
