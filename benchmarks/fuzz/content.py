"""Change headers, arrays and archives at random: they stay valid zip files and valid JSON."""

import copy
import io
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Header = dict[str, Any]
Arrays = dict[str, NDArray[Any]]

_ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    7,
    10**30,
    -(10**30),
    2**63,
    1e308,
    -1e308,
    5e-324,
    float("nan"),
    float("inf"),
    -float("inf"),
    "",
    "full",
    "tied",
    "auto",
    "s3://bucket/key",
    "/etc/passwd",
    "9" * 5000,
    "\x1b[31m\0",
    [],
    [[]],
    [1, 2, 3],
    {},
    {"a": {"b": None}},
)
_DTYPES = ("<f4", "<f2", ">f8", "<i8", "|u1", "<c16", "|b1", "<U4", "<M8[s]")


@dataclass(frozen=True)
class Content:
    """The content of an archive.

    Attributes
    ----------
    header : dict
    arrays : dict of str to ndarray
    """

    header: Header
    arrays: Arrays

    @classmethod
    def of(cls, path: Path) -> "Content":
        """Read the content of a valid file."""
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return cls(json.loads(arrays.pop("header").tobytes()), arrays)

    @property
    def n_bytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    def write(self, path: Path) -> None:
        """Write the content as it is, with the digest that the header has, if any."""
        text = json.dumps(self.header).encode()
        with path.open("wb") as file:
            np.savez(file, header=np.frombuffer(text, dtype=np.uint8), **self.arrays)  # type: ignore[arg-type]


def places(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The keys that lead to each value of a header, nested ones too."""
    pairs: Any = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    found = [before] if before else []
    for key, child in pairs:
        found += places(child, (*before, key))
    return found


def change_header(content: Content, random: np.random.Generator) -> tuple[Content, str]:
    """Replace, delete or add a value somewhere in the header."""
    header = copy.deepcopy(content.header)
    chosen = places({name: value for name, value in header.items() if name != "digest"})
    # Each part of the header has the same chance, whatever its size.
    top = random.choice(sorted({place[0] for place in chosen}))
    chosen = [place for place in chosen if place[0] == top]
    *path, last = chosen[random.integers(len(chosen))]
    parent: Any = header
    for key in path:
        parent = parent[key]
    value = parent[last]
    how = random.choice(["odd", "odd", "nearby", "delete", "add"])
    if how == "nearby" and type(value) in (int, float):
        parent[last] = [value + 1, -value, value * 2, value * 1.5, float(value)][random.integers(5)]
    elif how == "delete":
        del parent[last]
    elif how == "add" and isinstance(parent, dict):
        last = str(random.choice(["unknown", "__class__", "fit", "_progress", "checkpoint"]))
        parent[last] = _odd(random)
    elif how == "add":
        parent.append(copy.deepcopy(value))
    else:
        parent[last] = _odd(random)
    return Content(header, content.arrays), f"{how} {'.'.join(map(str, (*path, last)))}"


def _odd(random: np.random.Generator) -> Any:
    return copy.deepcopy(_ODD_VALUES[random.integers(len(_ODD_VALUES))])


def change_array(content: Content, random: np.random.Generator) -> tuple[Content, str]:
    """Change the values, the shape, the type or the name of an array."""
    arrays = dict(content.arrays)
    name = str(random.choice(sorted(arrays)))
    array = arrays.pop(name)
    how = str(random.choice(list(_ARRAY_CHANGES)))
    changed = _ARRAY_CHANGES[how](array, random)
    if how == "swap" and arrays:
        other = str(random.choice(sorted(arrays)))
        arrays[name], arrays[other] = arrays[other], array
        return Content(content.header, arrays), f"swap {name} and {other}"
    if how == "rename":
        arrays[str(random.choice(["unknown", "../outside", "", "header2", f"{name}.x"]))] = array
    elif changed is not None:
        arrays[name] = changed
    return Content(content.header, arrays), f"{how} {name}"


def _with_value(array: NDArray[Any], random: np.random.Generator) -> NDArray[Any]:
    changed = array.copy()
    if changed.size:
        values = np.array([np.nan, np.inf, -np.inf, 0, -1, 1e308, 5e-324, 2**40])
        if array.dtype.kind != "f":
            values = np.array([0, -1, 2**40, 7])
        changed.flat[random.integers(changed.size)] = random.choice(values)
    return changed


def _scaled(array: NDArray[Any], random: np.random.Generator) -> NDArray[Any]:
    return array * array.dtype.type(random.choice([-1, 0, 2, 3]))


def _cast(array: NDArray[Any], random: np.random.Generator) -> NDArray[Any]:
    with np.errstate(all="ignore"):
        return array.astype(str(random.choice(_DTYPES)))


def _reshaped(array: NDArray[Any], random: np.random.Generator) -> NDArray[Any]:
    ways: list[Callable[[], NDArray[Any]]] = [
        lambda: array.ravel(),
        lambda: array[np.newaxis],
        lambda: array.T,
        lambda: array[:0],
        lambda: np.concatenate([array, array]),
        lambda: np.concatenate([array[1:], array[:1]]),
        lambda: array[:-1],
        lambda: np.zeros(()),
        lambda: np.zeros((1, 2, 3, 4)),
        lambda: np.asfortranarray(array[..., :1]),
    ]
    return ways[random.integers(len(ways))]() if array.ndim else array[np.newaxis]


_ARRAY_CHANGES: dict[str, Callable[..., NDArray[Any] | None]] = {
    "value": _with_value,
    "scale": _scaled,
    "cast": _cast,
    "shape": _reshaped,
    "drop": lambda array, random: None,
    "swap": lambda array, random: None,
    "rename": lambda array, random: None,
}


def write_odd_archive(content: Content, path: Path, random: np.random.Generator) -> str:
    """Write an archive of which the members, and not only their content, are odd."""
    members = {name: npy(array) for name, array in content.arrays.items()}
    text = json.dumps(content.header).encode()
    name = str(random.choice(sorted(members)))
    how = str(random.choice(_ODD_ARCHIVES))
    method, twice = zipfile.ZIP_STORED, False
    if how == "truncated":
        members[name] = members[name][: random.integers(len(members[name]))]
    elif how == "bomb":
        members[name] = npy(np.zeros(20_000_000))
        method = zipfile.ZIP_DEFLATED
    elif how == "lying bomb":
        members[name] = members[name] + bytes(100_000_000)
        method = zipfile.ZIP_DEFLATED
    elif how == "bz2 bomb":
        members[name] = members[name] + bytes(100_000_000)
        method = zipfile.ZIP_BZIP2
    elif how == "huge shape":
        members[name] = described("<f8", (2**40, 2**20)) + bytes(64)
    elif how == "negative shape":
        members[name] = described("<f8", (-1, 2)) + bytes(64)
    elif how == "object":
        members[name] = described("|O", (1,)) + b"\x80\x04N."
    elif how == "structure":
        members[name] = described([("a", "<f8"), ("b", "|O")], (1,)) + bytes(64)
    elif how == "no array":
        members[name] = random.bytes(100)
    elif how == "twice":
        twice = True
    elif how == "deep header":
        text = b'{"settings": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    elif how == "wide header":
        text = b"[" + b"[]," * 4_000_000 + b"[]]"
    elif how == "no JSON":
        text = text[: random.integers(len(text))]
    elif how == "header of text":
        text = b"\xff\xfe" + text
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("header.npy", npy(np.frombuffer(text, dtype=np.uint8)))
        for member, values in members.items():
            archive.writestr(f"{member}.npy", values)
        if twice:
            archive.fp.seek(archive.start_dir)  # type: ignore[union-attr]
            del archive.NameToInfo[f"{name}.npy"]
            archive.writestr(f"{name}.npy", npy(np.zeros(3)))
    if how in ("encrypted", "unknown compression"):
        # In the list of members, which follows all of them.
        whole = bytearray(path.read_bytes())
        offset, value = (8, 1) if how == "encrypted" else (10, 97)
        place = whole.rindex(b"PK\x01\x02") + offset
        whole[place : place + 2] = struct.pack("<H", value)
        path.write_bytes(whole)
    return f"{how} {name}"


_ODD_ARCHIVES = (
    "truncated",
    "bomb",
    "lying bomb",
    "bz2 bomb",
    "huge shape",
    "negative shape",
    "object",
    "structure",
    "no array",
    "twice",
    "deep header",
    "wide header",
    "no JSON",
    "header of text",
    "encrypted",
    "unknown compression",
)


def npy(array: NDArray[Any]) -> bytes:
    """The bytes of a ``.npy`` file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def described(dtype: Any, shape: tuple[int, ...]) -> bytes:
    """The description that a ``.npy`` file begins with, of any type and shape."""
    file = io.BytesIO()
    description = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)
    return file.getvalue()


def change_bytes(path: Path, random: np.random.Generator) -> str:
    """Flip bits of a byte, cut a file, or put something in its place."""
    whole = path.read_bytes()
    how = str(random.choice(["flip", "flip", "flip", "cut", "empty", "noise", "zeros"]))
    place = int(random.integers(max(len(whole), 1)))
    changed = bytearray(whole)
    if how == "flip" and changed:
        changed[place] ^= int(random.integers(1, 256))
    elif how == "noise":
        changed = bytearray(random.bytes(len(whole)))
    elif how == "zeros":
        changed[place:] = bytes(len(whole) - place)
    else:
        changed = changed[: place if how == "cut" else 0]
    path.write_bytes(changed)
    return f"{how} {path.name} at {place}"
