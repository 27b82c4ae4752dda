"""Descriptions of a model for the command line."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from streamgmm.events import SkippedRows
from streamgmm.quantities import printable

if TYPE_CHECKING:
    from streamgmm.estimators import GaussianMixture, OnlineGaussianMixture

_READS_SHOWN = 10
_FEATURES_SHOWN = 6
_FOLDERS_SHOWN = 3


def summary(model: "GaussianMixture | OnlineGaussianMixture") -> str:
    """Return one line on the model and its fit."""
    from streamgmm.estimators import OnlineGaussianMixture
    from streamgmm.estimators.summary import describe

    if not has_mixture(model):
        seen = 0.0 if model.state_.progress is None else model.n_samples_seen_
        return (
            f"{model.n_components} components ({model.covariance_type}) to be found, "
            f"{seen:,.10g} rows learned"
        )
    described = describe(model.fitted_model_)
    if isinstance(model, OnlineGaussianMixture):
        changes = (
            f"{len(model.changes_)} change(s) of the stream"
            if model.changes_
            else "no change detected"
        )
        seen = f"{described}, {model.n_samples_seen_:,.10g} rows learned, {changes}"
        return with_skipped(seen, model.state_.skipped)
    return with_skipped(described, _skipped_at_last(model.history_))


def _skipped_at_last(history: Sequence[Mapping[str, Any]]) -> SkippedRows:
    """Return the rows that the last pass over the data skipped."""
    if not history:
        return SkippedRows()
    # Files of release 0.1 have fewer counts.
    names = (field.name for field in fields(SkippedRows))
    return SkippedRows(*(history[-1].get(name, 0) for name in names))


def with_skipped(text: str, skipped: SkippedRows) -> str:
    """Return the text, followed by the number of skipped rows if there are any."""
    return f"{text}, {skipped}" if skipped.n_rows else text


def has_mixture(model: "GaussianMixture | OnlineGaussianMixture") -> bool:
    """Return whether the model has a mixture; a stream may have had too few rows."""
    from streamgmm.estimators import OnlineGaussianMixture

    return not isinstance(model, OnlineGaussianMixture) or model.__sklearn_is_fitted__()


def print_transformers(transformers: Sequence[Any]) -> None:
    """Print a line on each transformer of the rows before the mixture."""
    if not transformers:
        return
    from streamgmm.preprocessing.chains import describe

    for transformer in transformers:
        click.echo(f"before the mixture: {describe(transformer)}")


def print_ledger(model: "GaussianMixture | OnlineGaussianMixture") -> None:
    """Print a line on the learned batches, and one on each of the last folders."""
    from streamgmm.estimators import OnlineGaussianMixture

    if not isinstance(model, OnlineGaussianMixture):
        return
    ledger = model.state_.ledger
    batches = ledger.batches.entries
    if batches:
        last = printable([*batches][-1])
        click.echo(f"{len(batches):,} batches known by their ids, the last {last}")
    for folder, files in [*ledger.folders.entries.items()][-_FOLDERS_SHOWN:]:
        name, position = [*files.entries.items()][-1]
        folder, name = printable(folder), printable(name)
        place = f"{folder}/{name} up to row {position.n_rows:,}"
        others = f"{len(files.entries):,} files and arrays known in {folder}, the last {place}"
        click.echo(place if len(files.entries) == 1 else others)


def contents(
    model: "GaussianMixture | OnlineGaussianMixture", transformers: Sequence[Any] = ()
) -> dict[str, Any]:
    """Return all values of the model, and of the transformers of its rows, as JSON values."""
    from streamgmm.estimators import OnlineGaussianMixture

    names = getattr(model, "feature_names_in_", None)
    found: dict[str, Any] = {
        "n_components": model.n_components,
        "covariance_type": model.covariance_type,
        "feature_names": None if names is None else list(names),
    }
    if transformers:
        from streamgmm.preprocessing.files import transformer_record

        found["transformers"] = [
            {
                "name": type(transformer).__name__,
                **record.header["fitted"],
                **{name: array.tolist() for name, array in record.arrays.items()},
            }
            for transformer in transformers
            for record in [transformer_record(transformer)]
        ]
    if not has_mixture(model):
        return {**found, "ledger": model.state_.ledger.to_header()}
    if hasattr(model, "provenance_"):
        found["provenance"] = model.provenance_
    found |= {
        "n_features": model.means_.shape[1],
        "weights": model.weights_.tolist(),
        "means": model.means_.tolist(),
    }
    if hasattr(model, "loadings_"):
        found["loadings"] = model.loadings_.tolist()
        found["noise_variances"] = model.noise_variances_.tolist()
    else:
        found["covariances"] = model.covariances_.tolist()
    if hasattr(model, "noise_weight_"):
        found["noise_weight"] = model.noise_weight_
        found["noise_log_density"] = model.noise_log_density_
    if hasattr(model, "noise_box_"):
        found["noise_box"] = model.noise_box_.tolist()
    if hasattr(model, "reg_covar_"):
        found["reg_covar"] = model.reg_covar_.tolist()
    if isinstance(model, OnlineGaussianMixture):
        found |= {"n_samples_seen": model.n_samples_seen_, "changes": model.changes_}
        found["skipped_rows"] = model.skipped_rows_
        found["ledger"] = model.state_.ledger.to_header()
    else:
        found |= {
            "converged": model.converged_,
            "n_iter": model.n_iter_,
            "log_likelihood": model.lower_bound_,
            "n_reads": model.n_reads_,
        }
    return {**found, "history": model.history_}


def finite(value: Any) -> Any:
    """Return the value with null for numbers that JSON cannot represent."""
    if isinstance(value, dict):
        return {key: finite(member) for key, member in value.items()}
    if isinstance(value, list):
        return [finite(member) for member in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_ridge(model: "GaussianMixture | OnlineGaussianMixture") -> None:
    """Print the ridge that is added to variances, if it is known."""
    ridge = getattr(model, "reg_covar_", None)
    if ridge is None:
        return
    if (ridge == ridge[0]).all():
        text = f"{ridge[0]:.4g}"
    else:
        names = getattr(model, "feature_names_in_", range(len(ridge)))[:_FEATURES_SHOWN]
        shown = [f"{printable(str(name))} {r:.4g}" for name, r in zip(names, ridge, strict=False)]
        more = [f"({len(ridge) - len(names)} more)"] if len(ridge) > len(names) else []
        text = ", ".join([*shown, *more])
    click.echo(f"added to variances (reg_covar): {text}")


def print_components(model: "GaussianMixture | OnlineGaussianMixture") -> None:
    """Print weights, means and standard deviations."""
    from streamgmm.estimators.summary import component_table

    click.echo("\nmean (standard deviation)\n")
    click.echo(component_table(model.fitted_model_))


def print_history(model: "GaussianMixture | OnlineGaussianMixture") -> None:
    """Print a table of the last passes, if there are any."""
    history = model.history_
    if not hasattr(model, "n_reads_") or not history:
        return
    shown = history[-_READS_SHOWN:]
    title = "passes over the data"
    if len(shown) < len(history):
        title = f"last {len(shown)} of {len(history)} passes over the data"
    rows = [
        [
            str(read["number"]),
            _purpose(read),
            _or_blank(read["log_likelihood"], ".6f"),
            _or_blank(read["gain"], "+.2e"),
            str(read["n_rows"]),
            f"{read['seconds']:.2f}",
        ]
        for read in shown
    ]
    columns = ["pass", "purpose", "log-likelihood", "gain", "rows", "seconds"]
    _print_table(title, columns, rows)


def _purpose(read: Mapping[str, Any]) -> str:
    text = f"{read['purpose']} {read['iteration'] or ''}".rstrip()
    return text if read.get("accepted", True) else f"{text}, not accepted"


def _or_blank(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else ""


def _print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(*map(escape, columns), title=title, title_justify="left", box=box.SIMPLE_HEAD)
    narrowest = len("  ")
    for column, cells in zip(table.columns, zip(columns, *rows, strict=True), strict=True):
        column.justify = "right"
        # Text is broken between words where a terminal is narrow, and numbers never.
        column.no_wrap = not any(" " in cell for cell in cells)
        narrowest += max(len(word) for cell in cells for word in [*cell.split(), ""]) + len("   ")
    for row in rows:
        table.add_row(*row)
    # Output to a file or a pipe has no width limit.
    console = Console(width=max(Console().width, narrowest) if sys.stdout.isatty() else 10_000)
    console.print(table, highlight=False)
