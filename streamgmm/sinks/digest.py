"""Digests of the chunks of an unfinished output on the disk, to detect damage."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from streamgmm.protocols import Region


def values_digest(region: Region, arrays: Iterable[NDArray[Any]]) -> bytes:
    """Return the digest of a box of samples and its values, which may be in several arrays."""
    digest = _begun(region)
    for values in arrays:
        if values.flags.c_contiguous:
            digest.update(values.data)
        else:
            # A copy of all values could be as large as a chunk of data.
            for part in values:
                digest.update(np.ascontiguousarray(part).data)
    return digest.digest()


def files_digest(region: Region, root: Path, keys: Iterable[str]) -> bytes:
    """Return the digest of a box of samples and of the files that hold it.

    A file may be absent: a stored chunk that holds only the fill value has no file.

    Parameters
    ----------
    region : tuple of slice
    root : Path
    keys : iterable of str
        Paths of the files below the root.
    """
    digest = _begun(region)
    for key in keys:
        file = root / key
        content = file.read_bytes() if file.exists() else None
        size = -1 if content is None else len(content)
        digest.update(f"{key} {size} ".encode())
        digest.update(content or b"")
    return digest.digest()


def metadata_digest(root: Path, keys: Iterable[str]) -> str:
    """Return the digest of the names and the content of files below a root."""
    digest = xxhash.xxh3_128()
    for key in keys:
        content = (root / key).read_bytes()
        digest.update(f"{key} {len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()


def _begun(region: Region) -> "xxhash.xxh3_128":
    """Return a digest that begins with a box, as two boxes may hold the same values."""
    return xxhash.xxh3_128(repr([(along.start, along.stop) for along in region]).encode())
