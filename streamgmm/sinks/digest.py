"""Digests of the chunks of an unfinished output on the disk, to detect damage."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from streamgmm.protocols import Region

# Metadata of a file are smaller than this.
_MOST_HEADER_BYTES = 1 << 16


def values_digest(region: Region, values: NDArray[Any]) -> bytes:
    """Return the digest of a box of samples and its values."""
    digest = _begun(region)
    if values.flags.c_contiguous:
        digest.update(values.data)
    else:
        # A copy of all values could be as large as a chunk of data.
        for part in values:
            digest.update(np.ascontiguousarray(part).data)
    return digest.digest()


def files_digest(region: Region, files: Iterable[Path]) -> bytes:
    """Return the digest of a box of samples and of the files that hold it.

    A file may be absent: a stored chunk that holds only zeros has no file.
    """
    digest = _begun(region)
    for file in files:
        content = file.read_bytes() if file.exists() else None
        size = -1 if content is None else len(content)
        digest.update(f"{file.name} {size} ".encode())
        digest.update(content or b"")
    return digest.digest()


def layout_digest(path: Path, n_value_bytes: int) -> str:
    """Return the digest of the metadata of an output: type, shape and size of its values.

    Parameters
    ----------
    path : Path
        A ``.npy`` file or a Zarr array.
    n_value_bytes : int
        Bytes of the values of a ``.npy`` file, which come last in it.
    """
    if path.suffix == ".zarr":
        metadata = path / "zarr.json"
        return xxhash.xxh3_128_hexdigest(metadata.read_bytes()) if metadata.exists() else ""
    n_header_bytes = path.stat().st_size - n_value_bytes
    if not 0 < n_header_bytes < _MOST_HEADER_BYTES:
        return ""
    with path.open("rb") as file:
        return xxhash.xxh3_128_hexdigest(file.read(n_header_bytes))


def _begun(region: Region) -> "xxhash.xxh3_128":
    """Return a digest that begins with a box, as two boxes may hold the same values."""
    return xxhash.xxh3_128(repr([(along.start, along.stop) for along in region]).encode())
