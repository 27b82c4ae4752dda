"""Models on disk: a ``.gmm`` file is an npz archive of arrays and one JSON header, without pickle.

The header says what wrote the file and in which version of the format; a file is written beside
its final name and takes it when it is whole.
"""

import contextlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamgmm.core.frame import Frame
from streamgmm.core.statistics import COUNTS, Statistics
from streamgmm.errors import ModelFileError, OutputError

FORMAT = "streamgmm"
VERSION = 1
_HEADER = "header"


@dataclass(frozen=True)
class Record:
    """What a file holds.

    Attributes
    ----------
    header : dict
        Whatever JSON can say.
    arrays : dict of str to ndarray
    """

    header: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]


def write_record(path: str | os.PathLike[str], record: Record) -> None:
    """Write a record, atomically: the file is the old one or the new one, never half of one.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    target = Path(path)
    header = {"format": FORMAT, "version": VERSION, **record.header}
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with unfinished.open("xb") as file:
            np.savez(file, allow_pickle=False, **{_HEADER: text}, **record.arrays)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # Some network file systems cannot; the file itself is safe already.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_record(path: str | os.PathLike[str]) -> Record:
    """Read a record.

    Raises
    ------
    ModelFileError
        If there is no such file, it is damaged, of another kind, or written by a newer version.
    """
    target = Path(path)
    try:
        with (
            target.open("rb") as file,
            np.lib.npyio.NpzFile(file, allow_pickle=False) as archive,
        ):
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise ModelFileError(f"{target}: no such file") from None
    except IsADirectoryError:
        raise ModelFileError(f"{target} is a directory, not a model file") from None
    except Exception as error:  # noqa: BLE001 - raised again, with what to do
        # A damaged archive can fail in any way that its reader can.
        raise ModelFileError(
            f"{target} is damaged or no model file ({error}); restore it or fit again"
        ) from None
    header = _header(target, arrays.pop(_HEADER, None))
    return Record(header, arrays)


def _header(path: Path, text: NDArray[Any] | None) -> dict[str, Any]:
    try:
        header = json.loads(text.tobytes()) if isinstance(text, np.ndarray) else None
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ModelFileError(f"{path} is not a streamgmm model file")
    version = header.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise ModelFileError(
            f"{path} is in format version {version}; this release reads up to {VERSION}: "
            "upgrade streamgmm"
        )
    return header


_SCALARS = ("log_likelihood", "weight", *COUNTS)
_FRAME_ARRAYS = ("origin", "scale", "centred", "means", "factors")


def pack_statistics(statistics: Statistics) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Statistics as a part of a header and arrays; undone by :func:`unpack_statistics`."""
    header = {name: getattr(statistics, name) for name in _SCALARS}
    header["covariance_type"] = statistics.frame.covariance_type
    arrays = {f"frame.{name}": getattr(statistics.frame, name) for name in _FRAME_ARRAYS}
    return header, {**arrays, "moments": statistics.moments, "scatter": statistics.scatter}


def unpack_statistics(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Statistics:
    """Statistics from what :func:`pack_statistics` made of them."""
    frame = Frame(header["covariance_type"], *(arrays[f"frame.{name}"] for name in _FRAME_ARRAYS))
    # Files of release 0.1 have fewer counts.
    scalars = {name: header.get(name, 0) for name in _SCALARS}
    return Statistics(frame, arrays["moments"], arrays["scatter"], **scalars)
