"""Type checkers know what a user's program gets from the package.

Both come with the extra ``dev``; continuous integration runs this file after installing that.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("typed_program.py")
ROOT = PROGRAM.parents[1]
# What a checker must say of a line is in the comment at its end.
EXPECTED = {
    number: line.rpartition("# ")[2]
    for number, line in enumerate(PROGRAM.read_text().splitlines(), start=1)
    if line.startswith("reveal_type(")
}
_NOT_FOR_MYPY = ", not for mypy"


def output_of(*command: str) -> str:
    found = subprocess.run(
        [sys.executable, "-m", *command, str(PROGRAM)], capture_output=True, text=True, cwd=ROOT
    )
    return found.stdout


def check(revealed: Mapping[int, str], expected: Mapping[int, str]) -> None:
    """Each line has the type that was expected, and nothing of it is unknown."""
    for number, names in expected.items():
        # The shape of an array is not known beforehand.
        text = revealed[number].replace("tuple[Any, ...]", "shape")
        for name in names.split(" | "):
            assert re.search(rf"\b{name}\b", text), (number, text)
        assert not re.search(r"\b(?:Any|Unknown)\b", text), (number, text)


def test_mypy_knows_the_types() -> None:
    pytest.importorskip("mypy", reason="it comes with the extra dev")
    text = output_of("mypy", "--strict", "--config-file=", "--disable-error-code=import-untyped")
    assert ": error:" not in text, text
    found = re.findall(r"typed_program\.py:(\d+): note: Revealed type is \"(.*)\"", text)
    own = {n: names for n, names in EXPECTED.items() if not names.endswith(_NOT_FOR_MYPY)}
    check({int(number): told for number, told in found}, own)


def test_pyright_knows_the_types() -> None:
    pytest.importorskip("basedpyright", reason="it comes with the extra dev")
    found = json.loads(output_of("basedpyright", "--outputjson", "--pythonpath", sys.executable))
    assert found["summary"]["errorCount"] == 0, found["generalDiagnostics"]
    revealed = {
        one["range"]["start"]["line"] + 1: one["message"].partition(" is ")[2]
        for one in found["generalDiagnostics"]
        if one["severity"] == "information"
    }
    check(revealed, {n: names.removesuffix(_NOT_FOR_MYPY) for n, names in EXPECTED.items()})
