"""Rows that fits have sampled, kept beside the models, so that no copy and no file has them."""

from typing import Any
from weakref import WeakKeyDictionary

from streamgmm.algorithms.sampling.row_sample import RowSample
from streamgmm.options import Missing
from streamgmm.sources.sample import SampleSource

# Bytes of the rows that are kept for a model.
_MOST_BYTES = 8 << 20

_KEPT: WeakKeyDictionary[Any, SampleSource] = WeakKeyDictionary()


def keep_sample(model: Any, sample: RowSample | None, missing: Missing) -> None:
    """Keep some of the rows that the fit of a model has sampled, as long as the model lives.

    Parameters
    ----------
    model : estimator
    sample : RowSample or None
        None for no rows; those of an earlier fit go.
    missing : {"error", "drop", "em"}
        What is done with rows that hold NaN.
    """
    forget_sample(model)
    if sample is not None and len(sample):
        part = sample.part(max(1, _MOST_BYTES // (sample.rows.nbytes // len(sample))))
        _KEPT[model] = SampleSource(part.rows, part.weights, missing)


def kept_sample(model: Any) -> SampleSource | None:
    """Return the rows that are kept for a model, if there are any."""
    return _KEPT.get(model)


def forget_sample(model: Any) -> None:
    """Keep no rows for a model any more."""
    _KEPT.pop(model, None)
