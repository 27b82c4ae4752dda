"""Sinks store predictions chunk by chunk: an array in memory, a ``.npy`` file, a Zarr array.

``array`` writes into any object that slices like an array. ``file`` writes a file that gets its
name when it is complete, and ``zarr`` a Zarr array. ``part`` is the folder of an unfinished output,
with a journal of finished chunks, so that an interrupted write can continue. ``digest`` detects
damage. May import ``streamgmm.protocols`` and below; Zarr only in ``zarr``.
"""

from streamgmm.sinks.array import ArraySink
from streamgmm.sinks.file import check_target, load_library, open_sink

__all__ = ["ArraySink", "check_target", "load_library", "open_sink"]
