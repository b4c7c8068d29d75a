"""`qmtl.runtime.sdk` names everything and loads it late."""

import subprocess
import sys

import pytest

from qmtl.runtime import sdk


@pytest.mark.parametrize("name", sdk.__all__)
def test_every_name_resolves(name: str) -> None:
    assert getattr(sdk, name).__name__.rpartition(".")[2] == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Frobnicator"):
        _ = sdk.Frobnicator


def test_the_import_is_light() -> None:
    heavy = "{'aiohttp', 'ccxt', 'polars', 'numba', 'pyarrow', 'pandas', 'numpy'}"
    code = f"import sys, qmtl.runtime.sdk; print(sorted({heavy} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
