"""Several files, one after the other: those of a folder or of a pattern."""

import re
from collections.abc import Callable
from pathlib import Path

from streamgmm.errors import DataError
from streamgmm.paths import why_absent
from streamgmm.sources.open import TABLE_SUFFIXES, is_stored_table
from streamgmm.sources.table_formats import (
    LOGS,
    folders_above,
    names_in_local,
    refuse_table_with_log,
)
from streamgmm.urls import PARQUET_SUFFIXES, is_pattern, is_url, split

_NUMBER = re.compile(r"(\d+)")


def natural_order(name: str) -> tuple[str | int, ...]:
    """Return a key that sorts names by the numbers in them: ``part-9`` comes before ``part-10``."""
    return tuple(int(part) if part.isdecimal() else part for part in _NUMBER.split(name))


def listed(data: str, *, is_table: Callable[[Path], bool]) -> list[str]:
    """Return the paths of the tables that a path, a folder or a pattern stands for, in their order.

    Parameters
    ----------
    data : str
        A path or URL.
    is_table : callable
        Return whether a path is one of them.

    Raises
    ------
    DataError
        If there are none.
    """
    files = files_of(data, is_table=is_table)
    inner = split(data)[1]
    end = "" if inner is None else f"::{inner}"
    return [data] if files is None else sorted(f"{file}{end}" for file in files)


def files_of(data: str, *, is_table: Callable[[Path], bool] = is_stored_table) -> list[Path] | None:
    """Return the files and Zarr stores of a folder or pattern, by folders and then by names.

    Parameters
    ----------
    data : str
        A path or URL. What has a name that begins with ``_`` or ``.`` is skipped.
    is_table : callable
        Return whether a path is one of them; by default those of a known suffix are.

    Returns
    -------
    list of Path, or None
        None if the data are one table: a file, a store, or what is at a URL.

    Raises
    ------
    DataError
        If a folder or pattern holds nothing that can be read, or cannot be listed.
    """
    location, _ = split(data)
    if is_url(location):
        return None
    root = Path(location)
    reason = (
        why_absent(root) if location else "the path of the data is empty; name a file or folder"
    )
    has_matches = reason is not None and is_pattern(location)
    if reason is not None and not has_matches:
        raise DataError(reason)
    if not has_matches and (is_table(root) or not root.is_dir()):
        return None
    try:
        found = _matches(root, is_table) if has_matches else _files_below(root, is_table)
    except OSError as error:
        raise DataError(f"{location} cannot be listed: {error}") from error
    if not found:
        raise DataError(_nothing_found(location, has_matches))
    return sorted(found, key=_folder_and_name)


def _nothing_found(location: str, has_matches: bool) -> str:
    """Return the message for a folder or a pattern without a file that can be read."""
    suffixes = ", ".join(TABLE_SUFFIXES)
    if has_matches:
        return f"no file that can be read ({suffixes}) matches the pattern {location}; check it"
    return f"{location} holds no files that can be read; put files there that end in {suffixes}"


def _files_below(root: Path, is_table: Callable[[Path], bool]) -> list[Path]:
    """Return the files and Zarr stores in a folder and below it."""
    _refuse_tables_above(root)
    return _files_in(root, is_table)


def _refuse_tables_above(path: Path) -> None:
    """Refuse what lies in a table with a log of its own."""
    for folder in folders_above(str(path.absolute())):
        refuse_table_with_log(folder, LOGS, names_in_local)


def _folder_and_name(path: Path) -> tuple[tuple[str | int, ...], tuple[str | int, ...]]:
    """Return a key for the order in which names are forgotten: by folders, then by names."""
    return natural_order(str(path.parent)), natural_order(path.name)


def _files_in(
    folder: Path, is_table: Callable[[Path], bool], above: tuple[Path, ...] = ()
) -> list[Path]:
    """Return files and Zarr stores in a folder and below it, links to folders above it apart."""
    above = (*above, folder.resolve())
    found: list[Path] = []
    paths = [*folder.iterdir()]
    logs = LOGS.intersection(path.name for path in paths)
    refuse_table_with_log(str(folder), logs, names_in_local)
    for path in paths:
        if _is_hidden(path):
            continue
        if is_table(path):
            found.append(path)
        elif path.is_dir() and path.resolve() not in above:
            found += _files_in(path, is_table, above)
    return found


def _matches(pattern: Path, is_table: Callable[[Path], bool]) -> list[Path]:
    """Return the files and Zarr stores that a pattern stands for.

    Raises
    ------
    DataError
        If Parquet files are those of a table with a log of its own.
    """
    parts = pattern.parts
    n_fixed = next(i for i, part in enumerate(parts) if is_pattern(part))
    matches = Path(*parts[:n_fixed]).glob("/".join(parts[n_fixed:]))
    found = [path for path in matches if is_table(path) and not _is_hidden(path)]
    # One file stands for all files of its folder.
    for path in {path.parent: path for path in found if path.suffix in PARQUET_SUFFIXES}.values():
        _refuse_tables_above(path)
    return found


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(("_", "."))
