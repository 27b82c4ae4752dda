"""The commands: each a thin face over the estimator."""

import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

import streamgmm
from streamgmm.cli.describe import (
    contents,
    finite,
    has_mixture,
    print_components,
    print_history,
    print_ledger,
    print_ridge,
    print_transformers,
    summary,
    with_skipped,
)
from streamgmm.cli.program import LocalPath, Program, check_output
from streamgmm.cli.reports import (
    candidates,
    fit_report,
    label_counts,
    output_report,
    rows_of_components,
    write_table,
)
from streamgmm.errors import OutputError, ParameterError
from streamgmm.events import Event, FilesSkipped, RowsLearned, SkippedRows
from streamgmm.options import (
    Algorithm,
    Arithmetic,
    CovarianceType,
    Criterion,
    ExecutorName,
    Format,
    InitParams,
    Missing,
    NoiseName,
    ParameterName,
    PriorName,
)
from streamgmm.progress import reporting

if TYPE_CHECKING:
    from streamgmm.estimators import GaussianMixture
    from streamgmm.protocols import Source

_MODELS = (".gmm",)
_ARRAYS = (".npy", ".zarr")
# Suffixes of outputs of predictions; netCDF holds those of labelled data.
_PREDICTIONS = (*_ARRAYS, ".nc")
_PICTURES = (".png", ".pdf", ".svg")
_TABLES = (".csv",)
_SAMPLE_ROWS = 65536
_STANDARD_INPUT = "-"


def _path_option(*names: str, **settings: Any) -> Callable[[Any], Any]:
    return click.option(*names, type=LocalPath(), **settings)


_OUTPUT_FORMS = (
    "ends in .npy or .zarr; of labelled data also in .nc, or is a group of a store that exists, "
    "store.zarr::/labels."
)


def _path_argument(name: str) -> Callable[[Any], Any]:
    return click.argument(name, type=LocalPath())


# A path, a URL, or a path and another within it.
_data = click.argument("data")
_model = _path_argument("model")


def _weights(context: click.Context, option: click.Parameter, value: str | None) -> Any:
    match = None if value is None else re.fullmatch(r"cos\((.+)\)", value)
    return streamgmm.cos_latitude(match[1].strip()) if match else value


def _noise_setting(
    context: click.Context, option: click.Parameter, value: str | None
) -> str | float | None:
    if value is None or value in get_args(NoiseName):
        return value
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter("give uniform, or a number, the log density of noise") from None


_sample_weight = click.option(
    "--sample-weight",
    callback=_weights,
    metavar="WEIGHTS",
    help="Row weights: the name of a column, variable or coordinate of DATA; 'cos(NAME)' of a "
    "latitude; or the path or URL of a .npy file or Zarr array of shape (rows,).",
)
_predictions = _path_option("-o", "--output", required=True, help=f"Output; {_OUTPUT_FORMS}")
_quiet = click.option("-q", "--quiet", is_flag=True, help="Show no progress; warnings remain.")
_seed = click.option(
    "--seed",
    "random_state",
    type=click.IntRange(0, 2**32 - 1),
    help="Seed of the random numbers; the same seed gives the same result.",
)
_rank = click.option(
    "--rank",
    type=click.IntRange(0),
    help="Rank of the loadings with low_rank.  [default: 8, or what the columns allow]",
)
_prior = click.option(
    "--prior",
    type=click.Choice(get_args(PriorName)),
    help="Prior of means and covariances, which keeps components from collapsing.  [default: none]",
)


_noise = click.option(
    "--noise",
    callback=_noise_setting,
    metavar="uniform|NUMBER",
    help="Add noise, a component of constant density, for rows that belong to no component: "
    "uniform in the box of the data, or of this log density.  [default: none]",
)


_resume = click.option(
    "--resume", is_flag=True, help="Resume an interrupted command from OUTPUT.part."
)


def _example(*commands: str) -> str:
    """Return the end of a help page: commands as they are typed."""
    # With this first line, click keeps the lines as they are.
    return "\n".join(["\b", "Examples:" if len(commands) > 1 else "Example:", *commands])


# Options that describe data, by the names that streamgmm.open gives them.
_DESCRIPTION = (
    "variables",
    "feature_dim",
    "path",
    "columns",
    "missing",
    "storage_options",
    "format",
)
# Those by which features are found.
_FEATURES = ("variables", "feature_dim", "path", "columns", "format")


def _names(context: click.Context, option: click.Parameter, value: str | None) -> Any:
    return None if value is None else value.split(",")


def _ridge(context: click.Context, option: click.Parameter, value: str | None) -> Any:
    if value is None or value == "auto":
        return value
    try:
        entries = [float(entry) for entry in value.split(",")]
    except ValueError:
        raise click.BadParameter("give a number, numbers as in 1e-6,1e-12, or auto") from None
    if not all(0.0 <= entry < math.inf for entry in entries):
        raise click.BadParameter("give numbers that are finite, and 0 or larger")
    return entries if len(entries) > 1 else entries[0]


def _pairs(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> Any:
    pairs = [value.partition("=") for value in values]
    if not all(separator for _, separator, _ in pairs):
        raise click.BadParameter("write KEY=VALUE")
    return {key: value for key, _, value in pairs} or None


def _description(command: Any) -> Any:
    """Return what of the data is meant."""
    options = (
        click.option(
            "--variables",
            callback=_names,
            metavar="A,B,...",
            help="Names of the arrays to use as features.",
        ),
        click.option(
            "--feature-dim",
            callback=_names,
            metavar="A,B,...",
            help="Names of the dimensions of the features.",
        ),
        click.option("--path", metavar="NAME", help="Path of the array within a store or file."),
        click.option(
            "--columns",
            callback=_names,
            metavar="A,B,...",
            help="Names of the columns to use as features.",
        ),
        click.option(
            "--missing",
            type=click.Choice(get_args(Missing)),
            help="Rows that hold NaN: refuse them, skip them, or use their other values.  "
            "[default: error]",
        ),
        click.option(
            "--format",
            type=click.Choice(get_args(Format)),
            help="Kind of the files.  [default: as their content says]",
        ),
        click.option(
            "--storage-option",
            "storage_options",
            multiple=True,
            callback=_pairs,
            metavar="KEY=VALUE",
            help="Option of the file system of a URL; may be repeated.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _path_of(sample_weight: Any) -> str | None:
    """Return the path that weights may be named by."""
    return sample_weight if isinstance(sample_weight, str) else None


def _opened(data: str, settings: dict[str, Any], sample_weight: Any = None) -> "Source":
    """Return the data as the command line describes them; the description leaves the settings."""
    description = {name: settings.pop(name) for name in _DESCRIPTION}
    return streamgmm.open(data, sample_weight=sample_weight, **description)


def _opened_for(
    model: Any, data: str, settings: dict[str, Any], sample_weight: Any = None
) -> "Source":
    """Return the data as the command line describes them, or else as the model remembers."""
    from streamgmm.sources.open import options_by_name

    described = getattr(model, "data_description_", None)
    says_features = any(settings[name] is not None for name in _FEATURES)
    if described is not None:
        settings["missing"] = settings["missing"] or described.missing
    if described is not None and not says_features:
        settings |= options_by_name(data, described, settings["storage_options"]) or {}
    return _opened(data, settings, sample_weight)


_jobs = click.option(
    "-j", "--jobs", "n_jobs", type=int, help="Number of threads.  [default: all cores]"
)
_memory_limit = click.option(
    "--memory-limit",
    metavar="SIZE",
    help="Memory limit of the whole process, such as 4GiB.  [default: most of the free memory]",
)


def _part_or_number(
    context: click.Context, option: click.Parameter, value: str | None
) -> int | float | None:
    """Return a number of components, or a part of the variance."""
    if value is None:
        return None
    try:
        number = int(value) if value.isdigit() else float(value)
    except ValueError:
        number = math.nan
    if not (0.0 < number < 1.0 or (isinstance(number, int) and number >= 1)):
        raise click.BadParameter("give a number of components, or a part below 1 as in 0.99")
    return number


def _preprocessing(command: Any) -> Any:
    """Return what is done to the rows before the mixture."""
    options = (
        click.option(
            "--scale",
            is_flag=True,
            help="Scale each column to mean 0 and variance 1 first. The scaling is a part of the "
            "model file.",
        ),
        click.option(
            "--pca",
            "n_directions",
            callback=_part_or_number,
            metavar="NUMBER",
            help="Project on principal components first, after --scale: how many, or the part of "
            "the variance that they explain, as in 0.99. The projection is a part of the model "
            "file.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _preprocessed(
    source: "Source", scale: bool, n_directions: int | float | None, **resources: Any
) -> "tuple[list[Any], Source]":
    """Return the transformers that are asked for, fitted to the rows, and transformed rows."""
    if not scale and n_directions is None:
        return [], source
    from streamgmm.preprocessing import PCA, StandardScaler

    transformers: list[Any] = [StandardScaler(**resources)] if scale else []
    if n_directions is not None:
        transformers.append(PCA(n_directions, **resources))
    for transformer in transformers:
        source = transformer.fit_transform(source)
    return transformers, source


def _write_model(transformers: list[Any], mixture: Any, output: Path) -> None:
    """Write a mixture, with the transformers of its rows if there are any."""
    if not transformers:
        mixture.save(output)
        return
    from streamgmm.preprocessing.chains import chained

    streamgmm.save(chained(transformers, mixture), output)


_RESOURCES = ("executor", "n_jobs", "memory_limit")


def _checkpoint(command: Any) -> Any:
    """Return where intermediate results are kept, and whether to continue from there."""
    options = (
        click.option(
            "--checkpoint",
            metavar="FOLDER",
            help="Folder or URL for intermediate results and the best model so far.",
        ),
        click.option(
            "--checkpoint-interval",
            type=click.FloatRange(0.0, min_open=True),
            metavar="SECONDS",
            help="Also save the state of a running pass there, once in this time.",
        ),
        click.option(
            "--resume",
            is_flag=True,
            help="Resume an interrupted command from --checkpoint; begin if it is empty.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _check_checkpoint(settings: Mapping[str, Any], resume: bool) -> None:
    """Refuse options that need a checkpoint without one."""
    if settings["checkpoint"] is not None:
        return
    if resume:
        raise click.UsageError("--resume needs --checkpoint, the folder of what was interrupted.")
    if settings["checkpoint_interval"] is not None:
        raise click.UsageError("--checkpoint-interval needs --checkpoint, where passes are saved.")


def _resources(command: Any) -> Any:
    """Return where and with what the data are read and computed."""
    options = (
        _jobs,
        _memory_limit,
        click.option(
            "--executor",
            type=click.Choice(get_args(ExecutorName)),
            default="auto",
            show_default=True,
            help="Executor that computes the chunks.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return _quiet(command)


def _load(path: Path) -> Any:
    """Load a mixture that stands alone."""
    from streamgmm.estimators.loading import load_mixture

    return load_mixture(path)


def _load_parts(path: Path) -> "tuple[list[Any], GaussianMixture]":
    """Load the transformers of rows and the mixture of a model."""
    from streamgmm.preprocessing.chains import parts_of

    transformers, mixture = parts_of(streamgmm.load(path))
    return transformers, mixture


def _load_for(
    path: Path, data: str, settings: dict[str, Any], sample_weight: Any = None
) -> "tuple[GaussianMixture, Source]":
    """Load a model; return its mixture, and the rows as the mixture takes them."""
    transformers, mixture = _load_parts(path)
    first = transformers[0] if transformers else mixture
    source = _opened_for(first, data, settings, sample_weight)
    for part in (*transformers, mixture):
        part.set_params(**settings)
    for transformer in transformers:
        source = transformer.transform(source)
    return mixture, source


@click.group(cls=Program, invoke_without_command=True)
@click.version_option(streamgmm.__version__, prog_name="streamgmm")
@click.pass_context
def main(context: click.Context) -> None:
    """Gaussian mixture models for data larger than memory.

    DATA is a table (rows, features): a .npy file, a Zarr store, an HDF5 or netCDF file (or
    file.h5::/group/data), a Parquet file, or a folder or quoted pattern of such files; each may be
    at a URL.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@main.command(epilog=_example("streamgmm fit data.zarr -k 8 --memory-limit 4GiB -o model.gmm"))
@_data
@_path_option("-o", "--output", required=True, help="Model to write; ends in .gmm.")
@click.option(
    "-k",
    "--components",
    "--n-components",
    "n_components",
    type=click.IntRange(1),
    help="Number of components.",
)
@click.option(
    "-t",
    "--covariance-type",
    type=click.Choice(get_args(CovarianceType)),
    metavar="TYPE",
    help="Structure of the covariances: " + ", ".join(get_args(CovarianceType)) + ".  "
    "[default: full]",
)
@_rank
@click.option(
    "--tol",
    type=click.FloatRange(0),
    default=1e-3,
    show_default=True,
    help="Stop when the predicted remaining gain, or with em or hard the last gain, is smaller; "
    "in nats per row.",
)
@click.option(
    "--reg-covar",
    callback=_ridge,
    default="auto",
    show_default=True,
    metavar="NUMBERS",
    help="Added to variances, in squared units of the data: a number, one per column (A,B,...) "
    "or auto, a millionth of each variance but at most 1e-06.",
)
@click.option(
    "--max-iter",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="Largest number of passes after the survey; with em, of each start.",
)
@click.option(
    "--n-init",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of starts; the best is kept. With em each makes its own passes.",
)
@click.option(
    "--init-params",
    type=click.Choice(get_args(InitParams)),
    default="kmeans",
    show_default=True,
    help="Method of the starts.",
)
@click.option(
    "--algorithm",
    type=click.Choice(get_args(Algorithm)),
    default="auto",
    show_default=True,
    help="auto: a survey, a search on its sample and a few full passes. em: plain EM. hard: a "
    "search, then iterations that assign each row to one component.",
)
@click.option(
    "--survey-part",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Fraction of the data that the survey reads; not used by em.",
)
@click.option(
    "--arithmetic",
    type=click.Choice(get_args(Arithmetic)),
    default="auto",
    show_default=True,
    help="Arithmetic of densities; float32 is used where its error is below 0.001 nats.",
)
@_prior
@_noise
@_preprocessing
@_path_option(
    "--start",
    metavar="MODEL",
    help="Model whose parameters the fit starts from; auto also keeps its ridge.",
)
@click.option(
    "--fixed",
    type=click.Choice(get_args(ParameterName)),
    multiple=True,
    help="Parameters to keep as they are in --start; may be repeated. Without --start weights can "
    "be kept, all equal.",
)
@_checkpoint
@_description
@_sample_weight
@_seed
@_resources
def fit(
    data: str,
    output: Path,
    n_components: int | None,
    covariance_type: str | None,
    rank: int | None,
    start: Path | None,
    sample_weight: Any,
    scale: bool,
    n_directions: int | float | None,
    resume: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Fit a mixture to DATA and write the model."""
    if n_components is None and start is None:
        raise click.UsageError("Give the number of components, -k, or a model to --start from.")
    if {*settings["fixed"]} - {"weights"} and start is None:
        raise click.UsageError("--fixed needs --start, the model whose values are held.")
    _check_checkpoint(settings, resume)
    check_output(output, _MODELS, data, _path_of(sample_weight))
    from streamgmm.estimators import GaussianMixture
    from streamgmm.model_files import refuse_loss

    refuse_loss(output.resolve(), None)

    source = _opened(data, settings, sample_weight)
    begun: Any = None if start is None else _load(start)
    settings |= _shape(
        n_components, covariance_type, rank, start, begun, settings["reg_covar"], settings["noise"]
    )
    start_time = time.perf_counter()
    resources = {name: settings[name] for name in _RESOURCES}
    with reporting(quiet) as listener:
        transformers, source = _preprocessed(
            source, scale, n_directions, **resources, callbacks=[listener]
        )
        settings["callbacks"] = [listener]
        if hasattr(begun, "loadings_"):
            # No arguments give loadings.
            model = GaussianMixture.from_fitted_model(
                begun.fitted_model_, **settings, warm_start=True
            )
        else:
            model = GaussianMixture(**settings)
        model.fit(source, resume=resume).set_params(warm_start=False)
    seconds = time.perf_counter() - start_time
    _write_model(transformers, model, output)
    if not quiet:
        print_transformers(transformers)
        click.echo(f"{output}: {summary(model)}")
        click.echo(fit_report(model, output, data, seconds))


def _shape(
    n_components: int | None,
    covariance_type: str | None,
    rank: int | None,
    start: Path | None,
    model: Any,
    reg_covar: Any,
    noise: str | float | None,
) -> dict[str, Any]:
    """Return settings that say what is fitted; a model to start from decides them."""
    if model is None:
        kind = covariance_type or "full"
        return {"n_components": n_components, "covariance_type": kind, "rank": rank}
    if n_components not in (None, model.n_components):
        raise ParameterError(f"{start} has {model.n_components} components, not {n_components}")
    if covariance_type not in (None, model.covariance_type):
        raise ParameterError(f"{start} has {model.covariance_type} covariances")
    begun: dict[str, Any] = {"rank": rank}
    if hasattr(model, "loadings_"):
        begun["rank"] = model.rank_ if rank is None else rank
    else:
        begun |= {
            "weights_init": model.fitted_model_.parameters.shares,
            "means_init": model.means_,
            "precisions_init": model.precisions_,
        }
    return {
        "n_components": model.n_components,
        "covariance_type": model.covariance_type,
        **begun,
        "reg_covar": getattr(model, "reg_covar_", reg_covar) if reg_covar == "auto" else reg_covar,
        "noise": getattr(model, "noise", None) if noise is None else noise,
    }


def _sizes(context: click.Context, option: click.Parameter, value: str) -> list[int]:
    """Return numbers of components from text such as 1:12 or 2,4,8."""
    first, separator, last = value.partition(":")
    try:
        if separator:
            return list(range(int(first), int(last) + 1))
        return [int(size) for size in value.split(",")]
    except ValueError:
        raise click.BadParameter("give a range as in 1:12, or numbers as in 2,4,8") from None


def _ranks(context: click.Context, option: click.Parameter, value: str | None) -> list[int] | None:
    """Return ranks from text such as 4:8 or 4,8,16."""
    return None if value is None else _sizes(context, option, value)


@main.command(
    short_help="Choose the number of components.",
    epilog=_example(
        "streamgmm select data.zarr -k 1:12 --types full,diag -o best.gmm",
        "streamgmm select data.zarr --criterion held_out -o best.gmm --table table.csv",
    ),
)
@_data
@_path_option("-o", "--output", required=True, help="Model to write; ends in .gmm.")
@click.option(
    "-k",
    "--components",
    "--n-components",
    "n_components",
    default="1:12",
    show_default=True,
    callback=_sizes,
    metavar="SIZES",
    help="Numbers of components to choose from: a range A:B, or numbers A,B,...",
)
@click.option(
    "--types",
    "covariance_type",
    default="full,diag",
    show_default=True,
    callback=_names,
    metavar="A,B,...",
    help="Structures of the covariances to choose from.",
)
@click.option(
    "--rank",
    callback=_ranks,
    metavar="RANKS",
    help="Ranks of the loadings with low_rank: a range A:B, or numbers A,B,...  [default: 8, or "
    "what the columns allow]",
)
@click.option(
    "--criterion",
    type=click.Choice(get_args(Criterion)),
    default="bic",
    show_default=True,
    help="What decides: bic for a density, icl for clusters, held_out for predictions of new rows.",
)
@click.option(
    "--held-out",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.1,
    show_default=True,
    help="With --criterion held_out, the part of the rows that is held out.",
)
@click.option(
    "--repeats",
    "n_repeats",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of times that other rows are held out.",
)
@click.option(
    "--tol",
    type=click.FloatRange(0),
    default=1e-3,
    show_default=True,
    help="Gain that may remain, nats per row; the search lowers it where criteria need that.",
)
@_prior
@_noise
@click.option(
    "--fixed",
    type=click.Choice(["weights"]),
    multiple=True,
    help="weights: the components of each candidate have equal weights.",
)
@_preprocessing
@_path_option("--table", help="Table of all candidates to write; ends in .csv.")
@_path_option("--plot", "picture", help="Picture of the criterion: ends in .png, .pdf or .svg.")
@_checkpoint
@_description
@_sample_weight
@_seed
@_resources
def select(
    data: str,
    output: Path,
    table: Path | None,
    picture: Path | None,
    sample_weight: Any,
    scale: bool,
    n_directions: int | float | None,
    resume: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Choose the number of components and the covariance structure; write the best model."""
    _check_checkpoint(settings, resume)
    check_output(output, _MODELS, data, _path_of(sample_weight))
    if table is not None:
        check_output(table, _TABLES, data, output)
    if picture is not None:
        check_output(picture, _PICTURES, data, output)
    from streamgmm.estimators import GaussianMixtureSearch
    from streamgmm.model_files import refuse_loss

    refuse_loss(output.resolve(), None)
    source = _opened(data, settings, sample_weight)
    resources = {name: settings[name] for name in _RESOURCES}
    with reporting(quiet) as listener:
        transformers, source = _preprocessed(
            source, scale, n_directions, **resources, callbacks=[listener]
        )
        search = GaussianMixtureSearch(**settings, callbacks=[listener])
        search.fit(source, resume=resume)
    _write_model(transformers, search.best_estimator_, output)
    if table is not None:
        write_table(table, search.cv_results_)
    if picture is not None:
        from streamgmm.plotting import plot_criteria, save_picture

        save_picture(plot_criteria(search), picture)
    if not quiet:
        click.echo(candidates(search.cv_results_, search.criterion))
        print_transformers(transformers)
        click.echo(f"{output}: {summary(search.best_estimator_)}")


@main.command(
    short_help="Write the component of each row of DATA.",
    epilog=_example("streamgmm predict model.gmm data.zarr -o labels.zarr"),
)
@_model
@_data
@_predictions
@click.option("--proba", is_flag=True, help="Write responsibilities instead of labels.")
@_resume
@_description
@_resources
def predict(
    model: Path,
    data: str,
    output: Path,
    proba: bool,
    resume: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Write the component of each row of DATA, or its responsibilities."""
    check_output(output, _PREDICTIONS, data, model)
    from streamgmm.protocols import sample_shape

    fitted, source = _load_for(model, data, settings)
    function = fitted.predict_proba if proba else fitted.predict
    _write_rows(fitted, function, source, output, resume, quiet)
    if not quiet:
        shape, k = sample_shape(source), fitted.n_components
        if proba:
            click.echo(output_report(output, "responsibilities", (*shape, k)))
        else:
            counts = rows_of_components(label_counts(output, k))
            click.echo(f"{output_report(output, 'labels', shape)}; {counts}")


@main.command(
    short_help="Write rows with their missing values filled.",
    epilog=_example("streamgmm impute model.gmm data.zarr -o filled.zarr"),
)
@_model
@_data
@_path_option("-o", "--output", required=True, help="Output; ends in .npy or .zarr.")
@_resume
@_description
@_resources
def impute(
    model: Path, data: str, output: Path, resume: bool, quiet: bool, **settings: Any
) -> None:
    """Write the rows of DATA with missing values (NaN) replaced by their expectation."""
    check_output(output, _PREDICTIONS, data, model)
    from streamgmm.protocols import sample_shape

    settings["missing"] = settings["missing"] or "em"
    fitted = _load(model)
    source = _opened_for(fitted, data, settings)
    fitted.set_params(**settings)
    _write_rows(fitted, fitted.impute, source, output, resume, quiet)
    if not quiet:
        shape = (*sample_shape(source), source.n_features)
        click.echo(output_report(output, "rows", shape))


@main.command(
    short_help="Merge models of different rows into one.",
    epilog=_example("streamgmm merge monday.gmm tuesday.gmm -o week.gmm"),
)
@click.argument("models", type=LocalPath(), nargs=-1, required=True)
@_path_option("-o", "--output", required=True, help="Model to write; ends in .gmm.")
@click.option(
    "-k",
    "--components",
    "--n-components",
    "n_components",
    type=click.IntRange(1),
    help="Components of the merged model.  [default: as many as each model has]",
)
@_quiet
def merge(models: tuple[Path, ...], output: Path, n_components: int | None, quiet: bool) -> None:
    """Merge models that were fitted apart, each to rows of its own, into one."""
    check_output(output, _MODELS, *models)
    from streamgmm.estimators import OnlineGaussianMixture

    settings = {} if n_components is None else {"n_components": n_components}
    merged = OnlineGaussianMixture.merged([_load(model) for model in models], **settings)
    merged.save(output)
    if not quiet:
        click.echo(f"{output}: {summary(merged)}, {merged.merging_loss_:.2g} nats per row lost")


@main.command(
    epilog=_example(
        "streamgmm score model.gmm data.zarr",
        "streamgmm score model.gmm data.zarr --samples -o log-densities.npy",
    )
)
@_model
@_data
@click.option("--samples", is_flag=True, help="Write the log-density of each row instead.")
@_path_option("-o", "--output", help=f"Output of --samples; {_OUTPUT_FORMS}")
@_resume
@_description
@_sample_weight
@_resources
def score(
    model: Path,
    data: str,
    samples: bool,
    output: Path | None,
    resume: bool,
    sample_weight: Any,
    quiet: bool,
    **settings: Any,
) -> None:
    """Print log-likelihood, AIC and BIC of DATA.

    A row counts as much as its weight: a row of weight 2 is two rows.
    """
    if samples != (output is not None):
        raise click.UsageError("--samples and -o belong together.")
    if resume and output is None:
        raise click.UsageError("--resume continues with what --samples -o writes.")
    if samples and sample_weight is not None:
        raise click.UsageError("--samples does not depend on --sample-weight; remove it.")
    if output is not None:
        check_output(output, _PREDICTIONS, data, model)
    from streamgmm.protocols import sample_shape

    fitted, source = _load_for(model, data, settings, sample_weight)
    if output is not None:
        _write_rows(fitted, fitted.score_samples, source, output, resume, quiet)
        if not quiet:
            click.echo(output_report(output, "log-densities, nats", sample_shape(source)))
        return
    with reporting(quiet) as listener:
        criteria = fitted.set_params(callbacks=[listener]).criteria(source)
    click.echo(
        f"log-likelihood {criteria.mean_log_likelihood:.10g} nats per row (mean of "
        f"{criteria.n_rows:,.10g}), {criteria.log_likelihood:.10g} nats in total"
    )
    click.echo(f"aic {criteria.aic:.10g}")
    click.echo(f"bic {criteria.bic:.10g}")


def _write_rows(
    model: "GaussianMixture",
    function: Callable[..., Any],
    source: "Source",
    output: Path,
    resume: bool,
    quiet: bool,
) -> None:
    """Write a value for each row of the data."""
    with reporting(quiet) as listener:
        model.set_params(callbacks=[listener])
        function(source, out=output, resume=resume)


@main.command(
    epilog=_example("streamgmm sample model.gmm -n 100000 -o rows.npy --labels labels.npy")
)
@_model
@click.option("-n", "n_rows", type=click.IntRange(1), required=True, help="Number of rows.")
@_path_option("-o", "--output", required=True, help="Output; ends in .npy or .zarr.")
@_path_option("--labels", help="Output for the component of each row.")
@_seed
@_quiet
def sample(
    model: Path,
    n_rows: int,
    output: Path,
    labels: Path | None,
    random_state: int | None,
    quiet: bool,
) -> None:
    """Draw rows from a model, in random order."""
    check_output(output, _ARRAYS, model)
    if labels is not None:
        check_output(labels, _ARRAYS, model, output)
    fitted = _load(model)
    import numpy as np

    from streamgmm.protocols import region_shape
    from streamgmm.sinks import open_sink
    from streamgmm.sources.layout import regular_boundaries

    random = np.random.RandomState(random_state)
    fitted.set_params(random_state=random)
    boundaries = regular_boundaries(n_rows, _SAMPLE_ROWS)
    regions = [(part,) for part in map(slice, boundaries, boundaries[1:])]
    counts = np.zeros(fitted.n_components + 1, dtype=np.int64)
    shape = n_rows, fitted.means_.shape[1]
    with ExitStack() as files:

        def opened(path: Path, dtype: Any, *columns: int) -> Any:
            shape = n_rows, *columns
            sink = open_sink(path, shape, np.dtype(dtype), regions, (min(n_rows, _SAMPLE_ROWS),))
            return files.enter_context(sink)

        rows_sink = opened(output, np.float64, fitted.means_.shape[1])
        labels_sink = labels and opened(labels, np.min_scalar_type(-fitted.n_components))
        for region in regions:
            n_part = prod(region_shape(region))
            rows, components = fitted.sample(n_part)
            counts += np.bincount(components, minlength=len(counts))
            order = random.permutation(n_part)
            rows_sink.write(region, rows[order])
            if labels_sink:
                labels_sink.write(region, components[order])
    if not quiet:
        click.echo(f"{output_report(output, 'rows', shape)}; {rows_of_components(counts)}")


@main.command(
    short_help="Learn new rows of DATA, and save the model.",
    epilog=_example("streamgmm update model.gmm data.zarr -k 8 --half-life 1000000"),
)
@_model
@_data
@click.option(
    "--batch-id",
    metavar="ID",
    help="DATA are one batch with this id; a known batch is not learned again.",
)
@click.option("--follow", is_flag=True, help="Keep looking for new rows until Ctrl-C.")
@click.option(
    "--poll",
    type=click.FloatRange(0, 86_400, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Seconds between two checks with --follow.",
)
@click.option(
    "-k",
    "--components",
    "--n-components",
    "n_components",
    type=click.IntRange(1),
    help="Number of components of a new MODEL.",
)
@click.option(
    "-t",
    "--covariance-type",
    type=click.Choice(get_args(CovarianceType)),
    metavar="TYPE",
    help="Structure of the covariances: " + ", ".join(get_args(CovarianceType)) + ".  "
    "[default: full]",
)
@_rank
@click.option(
    "--half-life",
    type=click.FloatRange(0, min_open=True),
    metavar="ROWS",
    help="Number of rows after which a row has half its weight.  [default: never]",
)
@click.option(
    "--reg-covar",
    callback=_ridge,
    metavar="NUMBERS",
    help="Added to variances, in squared units of the data: a number, one per column (A,B,...) "
    "or auto, a millionth of each variance but at most 1e-06.  [default: auto]",
)
@click.option(
    "--n-init", type=click.IntRange(1), help="Number of starts of a search.  [default: 1]"
)
@click.option(
    "--init-params",
    type=click.Choice(get_args(InitParams)),
    help="Method of the starts.  [default: kmeans]",
)
@_prior
@click.option(
    "--init-size",
    type=click.IntRange(1),
    metavar="ROWS",
    help="Number of rows for the first search.  [default: 20 per parameter, at least 16384]",
)
@_description
@_sample_weight
@_seed
@_jobs
@_memory_limit
@_quiet
def update(
    model: Path,
    data: str,
    batch_id: str | None,
    follow: bool,
    poll: float,
    quiet: bool,
    **options: Any,
) -> None:
    """Learn the rows of DATA that MODEL has not learned yet, and save it.

    Of an array or file that has grown these are the rows at its end, of a folder or a quoted
    pattern the files with new names. DATA may be -, for an Arrow stream or .npy arrays on standard
    input. Interrupted at any time, the same command continues where it was.
    """
    if follow and (batch_id is not None or data == _STANDARD_INPUT):
        raise click.UsageError("--follow is for data that grow under their name.")
    given = {name: value for name, value in options.items() if value is not None}
    if not model.exists():
        if "n_components" not in given:
            raise click.UsageError(f"There is no {model}; give -k to begin it.")
        check_output(model, _MODELS, data)
    rows = _standard_input(given.pop("columns", None)) if data == _STANDARD_INPUT else data
    n_learned, skipped = 0, SkippedRows()

    def count(event: Event) -> None:
        nonlocal n_learned, skipped
        if isinstance(event, RowsLearned):
            n_learned += event.n_rows
            skipped += event.skipped

    with reporting(quiet) as listener:
        known: set[FilesSkipped] = set()

        def report(event: Event) -> None:
            # With --follow the same files are skipped again and again.
            if isinstance(event, FilesSkipped):
                if event in known:
                    return
                known.add(event)
            listener(event)

        while True:
            updated = streamgmm.update(model, rows, batch_id, callbacks=[count, report], **given)
            if not follow:
                break
            time.sleep(poll)
    if not quiet:
        new = with_skipped(f"{n_learned:,} new rows", skipped)
        click.echo(f"{model}: {new}; {summary(updated)}")


def _standard_input(columns: list[str] | None) -> "Iterator[Source]":
    """Yield the tables on standard input."""
    from streamgmm.sources.pipe import tables_from

    if sys.stdin is None:
        raise click.UsageError("Standard input is closed; DATA of - is read from there.")
    with open(sys.stdin.fileno(), "rb", closefd=False) as stream:
        yield from tables_from(stream, "standard input", columns)


@main.command(epilog=_example("streamgmm info model.gmm --json"))
@_model
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def info(model: Path, as_json: bool) -> None:
    """Print what a model file holds."""
    transformers, fitted = _load_parts(model)
    if as_json:
        click.echo(json.dumps(finite(contents(fitted, transformers)), indent=2))
        return
    click.echo(f"{model}: {summary(fitted)}")
    print_transformers(transformers)
    print_ledger(fitted)
    if has_mixture(fitted):
        from streamgmm.estimators.condition import warn_of_model

        warn_of_model(fitted)
        print_ridge(fitted)
        print_components(fitted)
        print_history(fitted)


_KINDS = ("mixture", "pairs", "uncertainty", "fit", "convergence", "entropy")
_KINDS_OF_FEATURES = ("mixture", "pairs", "uncertainty", "fit")
_KINDS_OF_DATA = ("uncertainty", "fit", "entropy")


@main.command(
    short_help="Draw a model, or how its fit converged.",
    epilog=_example(
        "streamgmm plot model.gmm --data data.zarr --features 0,1 -o picture.png",
        "streamgmm plot model.gmm --data data.parquet --kind fit -o fit.png",
    ),
)
@_model
@_path_option("-o", "--output", required=True, help="Picture: ends in .png, .pdf or .svg.")
@click.option(
    "--kind",
    type=click.Choice(_KINDS),
    help="mixture: the components as ellipses, over --data. pairs: several features, one by one "
    "and pair by pair. uncertainty: rows of --data by how uncertain their component is. fit: how "
    "well the model describes --data. convergence: the log-likelihood of each pass, or along a "
    "stream. entropy: how merging components lowers the entropy, of all rows of --data.  "
    "[default: mixture]",
)
@click.option(
    "--data",
    metavar="DATA",
    help="Data to draw: path or URL; a few chunks are read.",
)
@click.option(
    "--features",
    callback=_names,
    metavar="A,B,...",
    help="Names or numbers of the columns to show.  [default: the two directions, or the "
    "features, that separate the components best]",
)
@click.option(
    "--contours", is_flag=True, help="Draw lines of equal density in place of the ellipses."
)
@click.option("--convergence", is_flag=True, help="The same as --kind convergence.")
@click.option("--entropy", is_flag=True, help="The same as --kind entropy.")
@_description
@_sample_weight
def plot(
    model: Path,
    output: Path,
    kind: str | None,
    data: str | None,
    features: list[str] | None,
    contours: bool,
    convergence: bool,
    entropy: bool,
    sample_weight: Any,
    **settings: Any,
) -> None:
    """Draw the components of a model over data, how well they fit, or how they were found."""
    kind = _kind(kind, convergence, entropy)
    if data is None and kind in _KINDS_OF_DATA:
        raise click.UsageError(f"--kind {kind} needs --data, the rows that are drawn.")
    if data is not None and kind == "convergence":
        raise click.UsageError("--kind convergence shows no data; remove --data.")
    if features is not None and kind not in _KINDS_OF_FEATURES:
        raise click.UsageError(f"--kind {kind} shows no features; remove --features.")
    if contours and kind != "mixture":
        raise click.UsageError("--contours are drawn by --kind mixture alone.")
    described = [*settings.values(), sample_weight]
    if data is None and any(value is not None for value in described):
        raise click.UsageError("Options that describe data need --data, the data that are drawn.")
    check_output(output, _PICTURES, data, model, _path_of(sample_weight))
    from streamgmm.plotting import (
        plot_convergence,
        plot_entropy,
        plot_fit,
        plot_mixture,
        plot_pairs,
        plot_uncertainty,
        save_picture,
    )

    fitted = _load(model)
    source = None if data is None else _opened(data, settings, sample_weight)
    if kind == "entropy" and not hasattr(fitted, "merged_components"):
        raise click.UsageError("--kind entropy needs a model of a fit, not one of a stream.")
    shown = None if features is None else _columns(features, fitted)
    match kind:
        case "mixture":
            drawn: Any = plot_mixture(fitted, source, shown, contours=contours)
        case "pairs":
            drawn = plot_pairs(fitted, source, shown)
        case "uncertainty":
            drawn = plot_uncertainty(fitted, source, shown)
        case "fit":
            drawn = plot_fit(fitted, source, shown)
        case "convergence":
            drawn = plot_convergence(fitted)
        case _:
            drawn = plot_entropy(fitted.merged_components(source))
    save_picture(drawn, output)
    click.echo(f"{output}: picture, {kind}")


def _kind(kind: str | None, convergence: bool, entropy: bool) -> str:
    """Return the kind of picture that the options name.

    Raises
    ------
    click.UsageError
        If they name different ones.
    """
    named = {kind} if kind else set()
    named |= {"convergence"} if convergence else set()
    named |= {"entropy"} if entropy else set()
    if len(named) > 1:
        raise click.UsageError(f"A picture has one kind, not {' and '.join(sorted(named))}.")
    return named.pop() if named else "mixture"


def _columns(features: list[str], model: Any) -> list[int | str]:
    """Return columns as the library takes them; a text is a number unless it is a name."""
    names = getattr(model, "feature_names_in_", ())
    return [
        int(name) if name not in names and re.fullmatch(r"-?\d+", name) else name
        for name in features
    ]


@main.command(
    short_help="Compile the kernels for this machine.", epilog=_example("streamgmm warmup")
)
@_quiet
def warmup(quiet: bool) -> None:
    """Compile the kernels for this machine, so that the first fit does not have to.

    This takes minutes the first time, and seconds later. The machine code is kept in
    NUMBA_CACHE_DIR if that is set, else in the folder of the package or the user's cache folder.
    """
    from streamgmm.executors.warmup import compile_all

    start = time.perf_counter()
    folder = compile_all()
    if folder is None:
        raise OutputError("no folder for compiled kernels can be written; set NUMBA_CACHE_DIR")
    if not quiet:
        click.echo(f"{folder}: kernels, {time.perf_counter() - start:.0f} s")


@main.command(epilog=_example("streamgmm demo --size 10GB --memory-limit 1GiB"))
@click.option("--size", default="1GB", show_default=True, metavar="SIZE", help="Size of the array.")
@click.option(
    "--memory-limit",
    default="640MiB",
    show_default=True,
    metavar="SIZE",
    help="Memory for the whole process.",
)
@_path_option(
    "--directory", help="Where to put the array while it is used.  [default: temporary files]"
)
@_path_option(
    "-o", "--output", default="streamgmm-demo.png", show_default=True, help="Picture to write."
)
@click.option("--keep", is_flag=True, help="Keep the array.")
@click.option("-j", "--jobs", "n_jobs", type=int, help="Threads.  [default: all cores]")
@_quiet
def demo(output: Path, **settings: Any) -> None:
    """Fit made-up data larger than the memory limit.

    The command draws an array from a known mixture, fits it, and prints the fitted parameters
    beside the true ones, with the peak memory of the process.
    """
    check_output(output, _PICTURES)
    from streamgmm.cli.demo import run_demo

    run_demo(picture=output, **settings)
