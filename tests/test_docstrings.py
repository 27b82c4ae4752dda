"""Every public object says what it does, what it takes and returns, and shows an example.

``tests/test_imports.py`` runs the examples.
"""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from numpydoc import validate

import streamgmm
from streamgmm.events import Event

# The object has a docstring (GL08) with sections that are known and in their order (GL06, GL07); a
# summary of one line that is a sentence (SS); every parameter, in its order and with its type
# (PR01 to PR04); what is returned or yielded (RT01, YD01); and an example (EX01).
#
# Other codes are not asked for. Pages of the documentation connect objects and go into detail
# (ES01, SA01). A parameter whose name and type say all needs no further words (PR07, RT03). A
# returned value is named, as in scikit-learn (RT02). The rest is about dots and capitals, which
# ruff checks.
CODES = {
    *("GL06", "GL07", "GL08", "SS01", "SS02", "SS03", "SS04", "SS05", "SS06"),
    *("PR01", "PR02", "PR03", "PR04", "RT01", "YD01", "EX01"),
}
MODULES = ("errors", "events", "plotting", "testing")
PACKAGE = "streamgmm."


def public_objects() -> Iterator[tuple[str, Any]]:
    """Names and values: of the package, and of the modules that it makes reachable."""
    for name in streamgmm.__all__:
        if name != "__version__":
            yield f"{PACKAGE}{name}", getattr(streamgmm, name)
    for module_name in MODULES:
        module = import_module(f"{PACKAGE}{module_name}")
        names = getattr(module, "__all__", vars(module))
        for name in names:
            value = getattr(module, name)
            if isinstance(value, type | FunctionType) and not name.startswith("_"):
                is_own = value.__module__.startswith(f"{PACKAGE}{module_name}")
                if is_own:
                    yield f"{PACKAGE}{module_name}.{name}", value


def members(name: str, kind: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties of a class that this package defines."""
    for attribute in dir(kind):
        value = inspect.getattr_static(kind, attribute)
        function = value.fget if isinstance(value, property) else inspect.unwrap(value)
        function = getattr(function, "__func__", function)
        if (
            not attribute.startswith(("_", "test_"))
            and isinstance(function, FunctionType)
            and function.__module__.startswith(PACKAGE)
        ):
            yield f"{name}.{attribute}", value


def described_objects() -> dict[str, Any]:
    """Public objects and members, each once, under the first name."""
    found: dict[str, Any] = {}
    for name, value in public_objects():
        found[name] = value
        if isinstance(value, type):
            found.update(members(name, value))
    distinct = {id(value): name for name, value in reversed(found.items())}
    return {name: found[name] for name in distinct.values()}


OBJECTS = described_objects()


def exempt_codes(name: str, value: Any) -> set[str]:
    """What does not apply to an object."""
    exempt = set()
    if isinstance(value, property):
        # The example of the class shows its attributes.
        exempt |= {"EX01"}
    elif dataclasses.is_dataclass(value):
        # The section of attributes describes the parameters; see the test of fields.
        exempt |= {"PR01"}
    if name.startswith(("streamgmm.events.", "streamgmm.errors.")):
        # These are received and not made; their pages show that.
        exempt |= {"EX01"}
    if name.startswith("streamgmm.testing.") and (hasattr(value, "_fixture_function")):
        exempt |= {"EX01", "PR01", "RT01"}
    return exempt


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_is_described(name: str) -> None:
    asked = CODES - exempt_codes(name, OBJECTS[name])
    found = [f"{code}: {text}" for code, text in validate.validate(name)["errors"] if code in asked]
    assert not found


@pytest.mark.parametrize(
    "kind", [value for value in OBJECTS.values() if dataclasses.is_dataclass(value)]
)
def test_fields_are_described(kind: Any) -> None:
    """In the section of attributes or of parameters, by name."""
    text = inspect.getdoc(kind) or ""
    described = {
        name for line in re.findall(r"^(\w+(?:, \w+)*) ?:", text, re.M) for name in line.split(", ")
    }
    described |= set(re.findall(r"^(\w+)$", text, re.M))
    assert {field.name for field in dataclasses.fields(kind)} <= described


def test_the_reference_lists_every_object() -> None:
    reference = Path(__file__).parents[1] / "docs" / "reference"
    pages = [(reference / page).read_text() for page in ("api.md", "events.md")]
    listed = {name for page in pages for name in re.findall(r"^   (\w+)$", page, re.M)}
    names = {name.removeprefix(PACKAGE).rpartition(".")[2] for name, _ in public_objects()}
    assert names <= listed


def test_all_events_are_events() -> None:
    """What a callback can receive is on the page of events."""
    kinds = [kind for name, kind in public_objects() if name.startswith("streamgmm.events.")]
    assert {kind.__name__ for kind in kinds if not issubclass(kind, Event)} == {"SkippedRows"}
