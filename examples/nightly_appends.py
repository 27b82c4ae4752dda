"""
An array that grows every night
===============================

Keep a model current with a Zarr array that grows every night, and learn no row twice.

Run it in an empty folder: ``python nightly_appends.py``. It writes ``measurements.zarr`` (16 MB
before compression) and ``model.gmm``. Run it again, or kill it and run it again: the model learns
no row a second time.
"""

from pathlib import Path

import numpy as np
import zarr

import streamgmm
from streamgmm.events import Event, RowsLearned

CENTRES = np.array([[-4.0, 0.0, 0.0, 1.0], [0.0, 4.0, 0.0, -1.0], [4.0, 0.0, 4.0, 0.0]])
NIGHTS, ROWS_A_NIGHT = 5, 100_000


def append_night(path: Path, night: int) -> None:
    """Append the rows of one night to the array, unless they are there."""
    random = np.random.default_rng(night)
    if night == 0 and not path.exists():
        chunks = (16_384, CENTRES.shape[1])
        zarr.create_array(path, shape=(0, CENTRES.shape[1]), chunks=chunks, dtype="f8")
    array = zarr.open_array(path, mode="r+")
    if array.shape[0] > night * ROWS_A_NIGHT:
        return
    # The centres drift; half_life below makes the model follow them.
    centres = CENTRES + 0.1 * night
    rows = centres[random.integers(3, size=ROWS_A_NIGHT)] + random.normal(size=(ROWS_A_NIGHT, 4))
    array.append(rows.round(3))


def say(event: Event) -> None:
    """Print how many rows the file of the model has learned."""
    if isinstance(event, RowsLearned):
        print(f"  learned {event.n_rows:,} rows, {event.n_samples:,.0f} in all")


# %%
# Every night the job runs twice. The second run finds nothing new.

for night in range(NIGHTS):
    append_night(Path("measurements.zarr"), night)
    for attempt in ("the job of the night", "once more, for nothing"):
        print(f"night {night}, {attempt}:")
        # The settings begin the model in the first night. The command that does the same:
        #     streamgmm update model.gmm measurements.zarr -k 3 --half-life 200000 --seed 0
        model = streamgmm.update(
            "model.gmm",
            "measurements.zarr",
            n_components=3,
            half_life=200_000,
            random_state=0,
            callbacks=[say],
        )

# %%
# The means follow the drift.

print("means, each row a component:")
print(model.means_[np.argsort(model.means_[:, 0])].round(2))
