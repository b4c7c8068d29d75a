"""Finding the strategy somebody names: `file.py`, `file.py:Class` or `module:Class`."""

import hashlib
import importlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from qmtl.runtime.sdk.param import StrategyError
from qmtl.runtime.sdk.strategy import Strategy


class StrategyFileError(StrategyError):
    """The file or module is not there, does not import or lacks the class; the message says where."""


@dataclass(frozen=True)
class StrategySource:
    """A strategy class and where it came from.

    `label` is what messages call it (the file's name, else the module); `reference` names it on this machine
    (`/place/file.py:Class`, `module:Class`); `sha256` is of the file's bytes.
    """

    cls: type[Strategy]
    label: str
    reference: str
    path: Path
    sha256: str


def load_source(reference: str) -> StrategySource:
    """Import what `reference` names; StrategyFileError says what is wrong, with file and line."""
    target, _, class_name = reference.rpartition(":")
    if not target or "/" in class_name or "\\" in class_name or class_name.endswith(".py"):
        target, class_name = reference, ""
    if target.endswith(".py"):
        return _load_file(Path(target), class_name)
    if not class_name:
        raise StrategyFileError(f"{reference}: expected file.py, file.py:Class or module:Class")
    return _load_module(target, class_name)


def load_kept(reference: str, sha256: str, kept: Path | None) -> StrategySource:
    """Import `reference` in the version `sha256`: the file itself, else the copy `keep_copy` made of it."""
    if not reference.rpartition(":")[0].endswith(".py"):
        return load_source(reference)
    file, _, class_name = reference.rpartition(":")
    path = Path(file)
    if path.is_file() and digest_file(path) == sha256:
        return load_source(reference)
    copy = None if kept is None else kept / f"{sha256}.py"
    if copy is None or not copy.is_file() or digest_file(copy) != sha256:
        change = "has changed" if path.is_file() else "is gone"
        place = "" if copy is None else f", and {copy} is no copy of it"
        raise StrategyFileError(f"{path} {change}: version {sha256[:12]} was running{place}")
    return _load_file(copy, class_name, label=path.name, folder=path.parent)


def keep_copy(source: StrategySource, kept: Path) -> None:
    """Keep the bytes of a strategy file under their hash, so that a journal replays when it has changed."""
    if not source.reference.rpartition(":")[0].endswith(".py"):
        return
    copy = kept / f"{source.sha256}.py"
    if not copy.is_file():
        kept.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(source.path.read_bytes())


def digest_file(path: Path) -> str:
    """Return the sha256 of a file's bytes as hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def find_fault(error: BaseException, path: Path, label: str) -> str:
    """Say what user code raised and where: `band_break.py:17: ZeroDivisionError: division by zero`.

    The line is the deepest one of the strategy's own file; none where the error came from elsewhere.
    """
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{label}:{error.lineno}: {type(error).__name__}: {error.msg}"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path) and frame.lineno
    ]
    where = f"{label}:{lines[-1]}" if lines else label
    text = " ".join(str(error).split())
    return (
        f"{where}: {text}" if isinstance(error, StrategyError) else f"{where}: {type(error).__name__}: {text}"
    )


@contextmanager
def naming_faults(source: StrategySource) -> Iterator[None]:
    """Turn what the strategy's own code raises into one StrategyError with file and line.

    What our own code raises goes through as it is.
    """
    try:
        yield
    except StrategyFileError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        is_theirs = any(frame.filename == str(source.path) for frame in frames)
        if is_theirs or isinstance(error, StrategyError):
            raise StrategyFileError(find_fault(error, source.path, source.label)) from error
        raise


def _load_file(path: Path, class_name: str, *, label: str = "", folder: Path | None = None) -> StrategySource:
    path = path.expanduser().absolute()
    label = label or path.name
    if not path.is_file():
        raise StrategyFileError(f"{path}: no such strategy file")
    sha256 = digest_file(path)
    name = f"qmtl_strategy_{hashlib.sha256(f'{path} {sha256}'.encode()).hexdigest()[:16]}"
    module = sys.modules.get(name)
    if module is None:
        place = str(folder or path.parent)
        if place not in sys.path:
            # At the end: a file named like a library must not hide it.
            sys.path.append(place)
        module = _execute(name, path, label)
    cls = _find_class(module, class_name, label)
    return StrategySource(cls, label, f"{path}:{cls.__name__}", path, sha256)


def _execute(name: str, path: Path, label: str) -> ModuleType:
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        code = compile(path.read_bytes(), str(path), "exec")
        exec(code, module.__dict__)  # noqa: S102 - running the user's file is what was asked for
    except Exception as error:
        del sys.modules[name]
        raise StrategyFileError(find_fault(error, path, label)) from error
    return module


def _load_module(name: str, class_name: str) -> StrategySource:
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise StrategyFileError(f"{name}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    cls = _find_class(module, class_name, name)
    path = Path(module.__file__ or "")
    return StrategySource(cls, name, f"{name}:{cls.__name__}", path, digest_file(path))


def _find_class(module: ModuleType, class_name: str, label: str) -> type[Strategy]:
    classes = {
        value.__name__: value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Strategy) and value.__module__ == module.__name__
    }
    known = ", ".join(classes) or "none"
    if class_name:
        found = getattr(module, class_name, None)
        if isinstance(found, type) and issubclass(found, Strategy):
            return found
        raise StrategyFileError(f"{label}: no Strategy class {class_name} (strategies there: {known})")
    if not classes:
        raise StrategyFileError(f"{label}: no class that is a Strategy")
    if len(classes) > 1:
        raise StrategyFileError(
            f"{label}: has the strategies {known}; name one as {label}:{next(iter(classes))}"
        )
    return next(iter(classes.values()))
