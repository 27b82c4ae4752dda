"""Folders that are tables with a log of their own: Delta, Iceberg, Hudi and Lance.

The log says which rows of which files are current. Files that an overwrite replaced and rows that
were deleted stay in the folder, so the files together are not the table.
"""

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from streamgmm.errors import DataError
from streamgmm.urls import is_url


@dataclass(frozen=True)
class _TableFormat:
    """How a format marks its tables, and how a current version is read.

    Attributes
    ----------
    name : str
    log : str
        The folder within a table that holds its log.
    entry : Pattern
        What the name of a file of the log matches.
    packages : str
        The packages on PyPI that read such tables.
    statements : str
        Python that comes before ``rows``.
    rows : str
        Arguments of ``pyarrow.dataset.write_dataset`` that stream the current rows of the table
        ``{table}``, whose newest file of the log is ``{entry}``.
    """

    name: str
    log: str
    entry: re.Pattern[str]
    packages: str
    statements: str
    rows: str


_FORMATS = (
    _TableFormat(
        "a Delta table",
        "_delta_log",
        re.compile(r"\d{20}\..*(json|parquet)|_last_checkpoint"),
        "deltalake pyarrow",
        "from deltalake import DeltaTable",
        "DeltaTable({table!r}).scan()",
    ),
    _TableFormat(
        "an Iceberg table",
        "metadata",
        re.compile(r".+\.metadata\.json(\.gz)?"),
        "'pyiceberg[pyarrow]'",
        "from pyiceberg.table import StaticTable",
        "StaticTable.from_metadata({entry!r}).scan().to_arrow_batch_reader()",
    ),
    _TableFormat(
        "a Hudi table",
        ".hoodie",
        re.compile(r"hoodie\.properties|.*(commit|inflight|requested).*"),
        "hudi pyarrow",
        "from hudi import HudiTable; table = HudiTable({table!r})",
        "table.read_stream(), schema=table.get_schema()",
    ),
    _TableFormat(
        "a Lance dataset",
        "_versions",
        re.compile(r".+\.manifest"),
        "pylance pyarrow",
        "import lance",
        "lance.dataset({table!r}).scanner().to_reader()",
    ),
)
#: Names of folders that may be the log of a table.
LOGS = frozenset(kind.log for kind in _FORMATS)

# Lists the names in a folder; no names if the folder does not exist.
_Names = Callable[[str], Collection[str]]


def refuse_table_with_log(
    folder: str, logs: Collection[str], names_in: _Names, shown: Callable[[str], str] = str
) -> None:
    """Refuse a folder that is a table with a log of its own.

    Parameters
    ----------
    folder : str
        Its path within its file system.
    logs : collection of str
        Those of :data:`LOGS` that the folder may hold.
    names_in : callable
        Gives the names in a folder, by its path; none if there is no such folder.
    shown : callable
        Gives the path or URL of a folder, as a user writes it.

    Raises
    ------
    DataError
        With the way to write the current rows to a folder that can be read.
    """
    for kind in _FORMATS:
        if kind.log not in logs:
            continue
        log = f"{folder.rstrip('/')}/{kind.log}"
        entries = [name for name in names_in(log) if kind.entry.fullmatch(name)]
        if entries:
            newest = max(entries, key=_version)
            raise DataError(_message(kind, shown(folder), shown(f"{log}/{newest}")))


def folders_above(path: str) -> Iterator[str]:
    """Give the folders that a path or URL lies in, the innermost one first."""
    protocol, mark, rest = path.rpartition("://")
    parts = rest.rstrip("/").split("/")
    # The first part of a URL is a bucket or a host; of a path, the empty text before the root.
    for n in range(len(parts) - 1, 0, -1):
        yield f"{protocol}{mark}{'/'.join(parts[:n])}" or "/"


def names_in_local(folder: str) -> list[str]:
    """Return the names in a local folder; none if there is no such folder."""
    try:
        return [path.name for path in Path(folder).iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _version(name: str) -> tuple[int, str]:
    """Return the number that a file of a log begins with, and its name."""
    number = re.match(r"v?(\d+)", name)
    return int(number[1]) if number else -1, name


def _message(kind: _TableFormat, folder: str, entry: str) -> str:
    table = folder if is_url(folder) else str(Path(folder).absolute())
    entry = entry if is_url(entry) else str(Path(entry).absolute())
    statements, rows = (
        text.format(table=table, entry=entry) for text in (kind.statements, kind.rows)
    )
    return (
        f"{folder} is {kind.name}: its log ({kind.log}) says which rows of its files are current, "
        "and the files together hold other rows, too. Write the current rows to a new folder of "
        f"Parquet files and give that folder: pip install {kind.packages}; then in Python: "
        f"from pyarrow.dataset import write_dataset; {statements}; "
        f"write_dataset({rows}, base_dir='current', format='parquet')"
    )
