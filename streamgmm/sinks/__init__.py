"""Where predictions go, chunk by chunk: an array in memory, a ``.npy`` file, a Zarr array.

``array`` writes into anything that slices; ``file`` makes a file that appears whole under its name,
``zarr`` what is special about Zarr; ``part`` is the folder in which an output grows, with a journal
of what is done, so that an interrupted write can continue; ``digest`` finds what was damaged. May
import ``streamgmm.protocols`` and below; Zarr only in ``zarr``.
"""

from streamgmm.sinks.array import ArraySink
from streamgmm.sinks.file import check_target, open_sink

__all__ = ["ArraySink", "check_target", "open_sink"]
