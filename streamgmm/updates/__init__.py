"""Model files that keep learning.

``updating`` has the model in a file learn more rows, ``table_key`` says by which key the ledger of
the file remembers a table, ``appended_rows`` finds the rows of a table that are new, and
``row_digest`` distinguishes batches of rows. May import ``streamgmm.estimators`` and below.
"""

from streamgmm.updates.updating import update

__all__ = ["update"]
