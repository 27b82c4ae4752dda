"""The last lines of commands: what was computed, and where it is."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamgmm.quantities import with_prefix

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from streamgmm.estimators import GaussianMixture

# Labels that are counted at once; components whose rows are listed.
_COUNTED_AT_ONCE, _MOST_LISTED = 1 << 20, 20


def fit_report(model: "GaussianMixture", output: Path, data: str, seconds: float) -> str:
    """Return the time and the speed of a fit, and a command that uses the model."""
    n_rows = sum(read["n_rows"] for read in model.history_)
    passes_seconds = sum(read["seconds"] for read in model.history_)
    speed = f"{with_prefix(n_rows / passes_seconds)}rows/s" if passes_seconds else "no pass"
    return (
        f"{seconds:.1f} s, {round(model.n_reads_, 2)} passes over the data at {speed}\n"
        f"next: streamgmm predict {output} {data} -o labels.npy"
    )


def output_report(output: Path, what: str, shape: Sequence[int]) -> str:
    """Return the path and the shape of an output."""
    return f"{output}: {what}, {' × '.join(f'{length:,}' for length in shape)}"


def candidates(results: "Mapping[str, NDArray[Any]]", criterion: str) -> str:
    """Return a line for each candidate of a search, the best first.

    Parameters
    ----------
    results : mapping of str to ndarray
        ``cv_results_`` of the search.
    criterion : str
        Name of the criterion.
    """
    import numpy as np

    # For held-out rows a higher value is better, and differences are small.
    sign, side, digits = (-1, "below", 5) if criterion == "held_out" else (1, "above", 2)
    order = np.lexsort((sign * results[criterion], results["rank_criterion"]))
    best = results[criterion][order[0]]
    lines = [f"{'covariances':15}{'components':>11}{criterion:>18}{side + ' best':>14}  status"]
    for i in order:
        value = results[criterion][i]
        notes = [str(results["status"][i])]
        if results["degenerate"][i]:
            notes.append("degenerate")
        if not results["resolved"][i]:
            notes.append("not resolved")
        rank = results["param_rank"][i]
        kind = f"{results['param_covariance_type'][i]} {rank if rank else ''}"
        lines.append(
            f"{kind:15}{results['param_n_components'][i]:>11}"
            f"{value:>18.{digits}f}{sign * (value - best):>14.{digits}f}  {', '.join(notes)}"
        )
    return "\n".join(lines)


def write_table(path: Path, results: "Mapping[str, NDArray[Any]]") -> None:
    """Write the candidates of a search as comma-separated values, atomically.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    from streamgmm.persistence import write_whole

    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(results)
    writer.writerows(zip(*(column.tolist() for column in results.values()), strict=True))
    write_whole(path, lambda file: file.write(text.getvalue().encode()))


def rows_of_components(counts: "NDArray[np.int64]") -> str:
    """Return the number of rows of each component as text; the last count is of no component."""
    *own, n_others = counts.tolist()
    text = ", ".join(f"{count:,}" for count in own[:_MOST_LISTED])
    more = f" and {len(own) - _MOST_LISTED} more" if len(own) > _MOST_LISTED else ""
    others = f"; {n_others:,} without a component" if n_others else ""
    return f"rows of each component: {text}{more}{others}"


def label_counts(output: Path, n_components: int) -> "NDArray[np.int64]":
    """Return the number of rows with each label in an output; the last count is of no label."""
    import numpy as np

    counts = np.zeros(n_components + 1, dtype=np.int64)
    for part in _labels_in(output):
        own = np.where(part >= 0, part, n_components).astype(np.int64)
        counts += np.bincount(own, minlength=len(counts))
    return counts


def _labels_in(output: Path) -> "Iterator[NDArray[Any]]":
    """Yield the labels of an output some at a time; NaN or -1 of rows without one."""
    import numpy as np

    if output.suffix == ".npy":
        yield from _parts(np.load(output, mmap_mode="r"))
    elif output.suffix == ".zarr" and _is_array(output):
        import zarr

        yield from _parts(zarr.open_array(output, mode="r"))
    else:
        from streamgmm.protocols import chunks_of
        from streamgmm.sources.open import open_source

        source = open_source(output, variables="component", missing="drop")
        yield from (chunk.rows[:, 0] for chunk in chunks_of(source))


def _is_array(output: Path) -> bool:
    from streamgmm.sinks.zarr import is_zarr_array

    return is_zarr_array(output)


def _parts(labels: Any) -> "Iterator[NDArray[Any]]":
    """Yield labels some at a time; of labels on a grid along its first dimension."""
    import numpy as np

    others = max(int(np.prod(labels.shape[1:])), 1)
    step = max(_COUNTED_AT_ONCE // others, 1)
    for start in range(0, labels.shape[0], step):
        yield np.asarray(labels[start : start + step]).ravel()
