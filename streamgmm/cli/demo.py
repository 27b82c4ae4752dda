"""A demonstration: write an array larger than the memory limit, fit a mixture, and compare."""

import resource
import shutil
import statistics
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.optimize import linear_sum_assignment

import streamgmm
from streamgmm.algorithms.reads.reader import announced
from streamgmm.core.parameters import Parameters
from streamgmm.errors import MissingPackageError, OutputError, ParameterError
from streamgmm.estimators import GaussianMixture
from streamgmm.events import Listener
from streamgmm.executors.memory import parse_bytes
from streamgmm.executors.threads import ThreadExecutor
from streamgmm.progress import describe_rates, reporting
from streamgmm.protocols import Chunk, Job, region_shape, regions_of
from streamgmm.quantities import format_bytes
from streamgmm.sinks import open_sink
from streamgmm.sources.generated import GeneratedSource

_CHUNK_ROWS = 65536
_FEWEST_ROWS = 1000
_TOL = 1e-5


def run_demo(
    *,
    size: str,
    memory_limit: str,
    directory: Path | None,
    picture: Path,
    keep: bool,
    n_jobs: int | None,
    quiet: bool,
) -> None:
    """Write an array of a known mixture, fit it within a memory limit, and print the result.

    Parameters
    ----------
    size : str
        Size of the array before compression.
    memory_limit : str
        Memory limit of the whole process.
    directory : Path, optional
        Folder for the array; by default the folder of temporary files.
    picture : Path
        Picture of data and ellipses to write.
    keep : bool
        Whether to keep the array.
    n_jobs : int, optional
        Threads that compute; by default as many as there are cores.
    quiet : bool
        Whether to show no progress.

    Raises
    ------
    OutputError
        If the directory does not exist or has too little space.
    ParameterError
        If the size is too small or is not a size.
    """
    limit, n_bytes = parse_bytes(memory_limit), parse_bytes(size, "--size")
    folder = Path(tempfile.gettempdir()) if directory is None else directory
    _check_space(folder, n_bytes)
    source = _generated(n_bytes)
    place = (
        nullcontext(str(folder))
        if keep
        else tempfile.TemporaryDirectory(prefix="streamgmm-demo-", dir=folder)
    )
    with place as name:
        store = Path(name) / "streamgmm-demo.zarr"
        click.echo(
            f"{source.n_rows:,} rows of {source.n_features} features, {format_bytes(n_bytes)}, "
            f"in {store}"
        )
        click.echo(f"memory limit {format_bytes(limit)}")
        with reporting(quiet) as listener:
            _write(source, store, n_jobs, memory_limit, listener)
            model = GaussianMixture(
                source.parameters.n_components,
                tol=_TOL,
                random_state=0,
                n_jobs=n_jobs,
                memory_limit=memory_limit,
                callbacks=[listener],
            )
            model.fit(store)
        _print_comparison(source.parameters, model)
        _draw(model, store, picture)
        _print_account(model, n_bytes, limit)


def _generated(n_bytes: int) -> GeneratedSource:
    parameters = planted_mixture()
    n_rows = n_bytes // (8 * parameters.n_features)
    if n_rows < _FEWEST_ROWS:
        least = format_bytes(8 * parameters.n_features * _FEWEST_ROWS)
        raise ParameterError(f"--size is {n_bytes} bytes; give {least} or more")
    return GeneratedSource(parameters, n_rows, chunk_rows=_CHUNK_ROWS)


def planted_mixture() -> Parameters:
    """Return a mixture of six components in four dimensions that overlap but are distinct."""
    weights = [0.25, 0.22, 0.18, 0.15, 0.12, 0.08]
    means = [
        [-3.0, -2.0, 0.0, 1.0],
        [2.5, -2.5, 1.0, -1.0],
        [0.0, 3.0, -1.0, 0.0],
        [4.0, 2.5, 2.0, 2.0],
        [-4.5, 3.0, -2.0, -2.0],
        [0.0, -0.5, 3.0, -3.0],
    ]
    random = np.random.default_rng(1)
    factors = np.tril(random.normal(scale=0.5, size=(6, 4, 4)), -1)
    factors += np.eye(4) * random.uniform(0.5, 1.2, size=(6, 1, 4))
    covariances = factors @ np.swapaxes(factors, 1, 2)
    return Parameters.create("full", weights, means, covariances)


def _check_space(folder: Path, n_bytes: int) -> None:
    if not folder.is_dir():
        raise OutputError(f"there is no directory {folder}")
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise OutputError(
            f"{folder} has {format_bytes(free)} free, the array takes up to "
            f"{format_bytes(n_bytes)}; give a smaller --size or another --directory"
        )


def _write(
    source: GeneratedSource,
    store: Path,
    n_jobs: int | None,
    memory_limit: str,
    listener: Listener,
) -> None:
    shape = (source.n_rows, source.n_features)
    regions = list(map(regions_of(source), range(len(source.boundaries) - 1)))
    with (
        ThreadExecutor(n_jobs, memory_limit) as executor,
        open_sink(store, shape, source.dtype, regions, region_shape(regions[0])) as sink,
        announced(listener, "write", source, sink),
    ):
        executor.map_write(source, Job(_rows, None), sink, listener)


def _rows(_: None, chunk: Chunk) -> NDArray[Any]:
    return chunk.rows


def _print_comparison(planted: Parameters, model: GaussianMixture) -> None:
    """Print a table of true and fitted components, numbered as in the picture."""
    own, found = _standard_deviations(planted), _standard_deviations(model.fitted_model_.parameters)
    order = _aligned(planted.means, own, model.means_, found)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("no.", "", "weight", "means", "standard deviations"):
        table.add_column(heading, justify="left" if heading == "" else "right", no_wrap=True)
    for k, match in enumerate(order):
        table.add_row(
            str(match), "true", *_row(planted.weights[k], planted.means[k], own[k]), style="dim"
        )
        table.add_row("", "fitted", *_row(model.weights_[match], model.means_[match], found[match]))
    console = Console() if sys.stdout.isatty() else Console(width=100)
    console.print(table, highlight=False)


def _standard_deviations(parameters: Parameters) -> NDArray[np.float64]:
    return np.sqrt(parameters.structure.variances(parameters.covariances))


def _aligned(
    means: NDArray[Any], deviations: NDArray[Any], means_b: NDArray[Any], deviations_b: NDArray[Any]
) -> NDArray[np.intp]:
    """Return for each component the index of its match in the other mixture."""
    points = np.hstack([means, deviations])[:, np.newaxis]
    distances = np.sum((points - np.hstack([means_b, deviations_b])) ** 2, axis=2)
    matches: NDArray[np.intp] = linear_sum_assignment(distances)[1]
    return matches


def _row(weight: float, mean: NDArray[Any], deviations: NDArray[Any]) -> tuple[str, str, str]:
    return (
        f"{weight:.4f}",
        " ".join(f"{value:6.3f}" for value in mean),
        " ".join(f"{value:5.3f}" for value in deviations),
    )


def _print_account(model: GaussianMixture, n_bytes: int, limit: int) -> None:
    iterations = [read for read in model.history_ if read["purpose"] == "iteration"]
    # The first iteration may include the compilation of kernels.
    seconds = statistics.median(read["seconds"] for read in iterations)
    outcome = "converged" if model.converged_ else "not converged"
    click.echo(
        f"{outcome} after {model.n_iter_} iterations, "
        f"{round(model.n_reads_, 2)} passes over all the data"
    )
    click.echo(
        f"an iteration: {seconds:.3g} s, "
        f"{describe_rates(iterations[0]['n_rows'], n_bytes, seconds)}"
    )
    click.echo(
        f"peak memory of the process: {format_bytes(_peak_bytes())}, of a limit of "
        f"{format_bytes(limit)}, for an array of {format_bytes(n_bytes)}"
    )


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _draw(model: GaussianMixture, store: Path, picture: Path) -> None:
    try:
        from streamgmm.plotting import plot_mixture, save_picture
    except MissingPackageError as error:
        click.echo(f"no picture without {error.name}; {str(error).partition('; ')[2]}")
        return
    save_picture(plot_mixture(model, streamgmm.open(store)), picture)
    click.echo(f"picture of data and ellipses: {picture}")
