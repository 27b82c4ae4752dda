"""Several files, one after the other: those of a folder or of a pattern."""

import re
from glob import has_magic
from pathlib import Path

from streamgmm.errors import DataError
from streamgmm.sources.open import is_stored_table
from streamgmm.sources.urls import is_url, split

_NUMBER = re.compile(r"(\d+)")


def natural_order(name: str) -> tuple[str | int, ...]:
    """A key that sorts names by the numbers in them: ``part-9`` comes before ``part-10``."""
    return tuple(int(part) if part.isdecimal() else part for part in _NUMBER.split(name))


def files_of(data: str) -> list[Path] | None:
    """Files and Zarr stores that a folder or pattern stands for, by folders and then by names.

    Parameters
    ----------
    data : str
        A path or URL. What has a name that begins with ``_`` or ``.``, or a suffix that is not
        known, is passed over.

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
    if not location:
        raise DataError("the path of the data is empty; name a file, a folder or a URL")
    root = Path(location)
    if is_url(location) or is_stored_table(root):
        return None
    try:
        if root.is_dir():
            found = _files_in(root)
        elif has_magic(location) and not root.exists():
            found = _matches(root)
        else:
            return None
    except OSError as error:
        raise DataError(f"{location} cannot be listed: {error}") from error
    if not found:
        raise DataError(f"{location} holds no files that can be read")
    return sorted(found, key=_folder_and_name)


def _folder_and_name(path: Path) -> tuple[tuple[str | int, ...], tuple[str | int, ...]]:
    """A key for the order in which names are forgotten: by folders, and by names within them."""
    return natural_order(str(path.parent)), natural_order(path.name)


def _files_in(folder: Path, above: tuple[Path, ...] = ()) -> list[Path]:
    """Files and Zarr stores in a folder and below it, links to folders above it apart."""
    above = (*above, folder.resolve())
    found: list[Path] = []
    for path in folder.iterdir():
        if _is_hidden(path):
            continue
        if is_stored_table(path):
            found.append(path)
        elif path.is_dir() and path.resolve() not in above:
            found += _files_in(path, above)
    return found


def _matches(pattern: Path) -> list[Path]:
    """Files and Zarr stores that a pattern stands for."""
    parts = pattern.parts
    n_fixed = next(i for i, part in enumerate(parts) if has_magic(part))
    found = Path(*parts[:n_fixed]).glob("/".join(parts[n_fixed:]))
    return [path for path in found if is_stored_table(path) and not _is_hidden(path)]


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(("_", "."))
