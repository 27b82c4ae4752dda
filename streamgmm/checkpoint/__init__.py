"""Checkpoints: what a fit has found is kept as it comes, so that an interrupted fit continues.

``journal`` keeps results in order, each a file; ``places`` is where the files are. May import
``streamgmm.algorithms`` and below.
"""

from streamgmm.checkpoint.journal import Checkpoint, open_checkpoint

__all__ = ["Checkpoint", "open_checkpoint"]
