"""Checkpoints keep the results of a fit, so that an interrupted fit can continue.

``journal`` keeps results in order, one file each; ``storage`` reads and writes the files. May
import ``streamgmm.algorithms`` and below.
"""

from streamgmm.checkpoint.journal import Checkpoint, open_checkpoint

__all__ = ["Checkpoint", "open_checkpoint"]
