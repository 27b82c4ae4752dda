"""Warn about what a fitted mixture is worth: its components, its columns and its rows.

Everything that is fitted is reported here: batch fits, streams, updates, merged models and the
command line.
"""

import math
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from streamgmm.core.condition import (
    NARROW,
    Condition,
    DegenerateComponent,
    RidgeShare,
    examine,
)
from streamgmm.core.feature_moments import FeatureMoments
from streamgmm.core.parameters import Parameters, count_parameters, n_held_components
from streamgmm.core.structures import STRUCTURES, Array
from streamgmm.core.structures.low_rank import structure_name
from streamgmm.errors import (
    DegenerateComponentWarning,
    FewRowsWarning,
    LeftOutRowsWarning,
    RidgeWarning,
)
from streamgmm.events import SkippedRows
from streamgmm.options import CovarianceType

# Components that a warning describes for each reason, and that it numbers; columns that it names.
_DESCRIBED, _NUMBERED, _NAMED = 3, 20, 5
# Structures with fewer parameters than full covariances, the most flexible first.
_SIMPLER: tuple[CovarianceType, ...] = ("diag", "tied", "spherical")
_PACKAGE = str(Path(__file__).parents[1])


def condition_of(
    model: Any,
    parameters: Parameters,
    counts: Array | None,
    *,
    columns: FeatureMoments | None = None,
    lost: Collection[int] = (),
) -> Condition:
    """Return the condition of the mixture of a model.

    Parameters
    ----------
    model : GaussianMixture or OnlineGaussianMixture
        Its settings decide the ridge.
    parameters : Parameters
    counts, columns, lost
        As for :func:`streamgmm.core.condition.examine`.
    """
    ridge = np.zeros(parameters.n_features)
    added = getattr(model, "reg_covar_", model.reg_covar)
    # Before anything has been estimated, there may be a rule for the ridge and no ridge.
    k = parameters.n_components
    is_held = n_held_components(model.fixed, "covariances", k) == k
    if not is_held and not isinstance(added, str):
        ridge[:] = added
    ridge = parameters.structure.shared_ridge(ridge)
    return examine(parameters, counts, ridge, columns=columns, lost=lost)


def warn_of_condition(condition: Condition, model: Any) -> None:
    """Warn of degenerate components and of narrow columns, once each.

    Parameters
    ----------
    condition : Condition
    model : GaussianMixture or OnlineGaussianMixture
        That it is the condition of.
    """
    names = _column_names(model)
    if condition.components:
        warn(_describe_components(condition, names), DegenerateComponentWarning)
    if condition.columns.columns.size:
        warn(_describe_columns(condition.columns, names, model), RidgeWarning)


def warn_of_model(model: Any) -> None:
    """Warn of the condition of a fitted model, such as one from a file.

    Parameters
    ----------
    model : GaussianMixture or OnlineGaussianMixture
        If it was converted or derived from another one, nothing is known of its rows, and nothing
        is reported.
    """
    fitted = model.fitted_model_
    if fitted.statistics is not None:
        counts = fitted.statistics.counts
        warn_of_condition(condition_of(model, fitted.parameters, counts), model)


def warn_of_few_rows(model: Any, n_features: int, weight: float, is_weighted: bool) -> bool:
    """Warn if a mixture has more free parameters than there are rows.

    Parameters
    ----------
    model : GaussianMixture or OnlineGaussianMixture
    n_features : int
    weight : float
        Rows, in units of weight: a row of weight 2 is two rows.
    is_weighted : bool
        Whether rows have weights of their own.

    Returns
    -------
    bool
        Whether a warning was given.
    """
    rank = getattr(model, "rank", None)
    own = structure_name(model.covariance_type, rank, n_features)

    def size(covariance_type: CovarianceType, n_components: int) -> int:
        structure = STRUCTURES[covariance_type]
        has_noise = getattr(model, "noise", None) is not None
        return count_parameters(structure, n_components, n_features, model.fixed, has_noise)

    k = model.n_components
    n_parameters = size(own, k)
    if not 0.0 < weight < n_parameters:
        return False
    total = f"{weight:,.10g}"
    rows = f"the weights of the rows sum to {total}" if is_weighted else f"there are {total} row(s)"
    largest = STRUCTURES[own].rank

    def rank_size(rank: int) -> int:
        return size(structure_name(model.covariance_type, rank, n_features), k)

    lower = _most(lambda fewer: rank_size(fewer) <= weight, largest)
    remedies = [f"rank={lower} ({rank_size(lower):,} parameters)"] if lower else []
    remedies += [
        f"covariance_type={simpler!r} ({size(simpler, k):,} parameters)"
        for simpler in _SIMPLER
        if size(simpler, k) < n_parameters and size(simpler, k) <= weight
    ]
    most = _most(lambda fewer: size(own, fewer) <= weight, k)
    if most:
        remedies.append(f"at most {most:,} component(s)")
    remedies.append("more rows")
    if is_weighted:
        remedies.append("weights that sum to the number of rows, if they are relative")
    mixture = f"{k:,} {model.covariance_type} component(s) in {n_features:,} column(s)"
    warn(
        f"{rows}, but the mixture has {n_parameters:,} free parameters ({mixture}): it will fit "
        f"these rows better than others. Use {_alternatives(remedies)}",
        FewRowsWarning,
    )
    return True


def warn_of_skipped_rows(skipped: SkippedRows, n_rows: int, consequence: str = "") -> None:
    """Warn of rows whose squares overflow, and if no row of some rows could be used.

    Rows without values and rows of weight 0 are skipped as the caller wished; that all of them
    are is hardly a wish.

    Parameters
    ----------
    skipped : SkippedRows
    n_rows : int
        Rows that were given.
    consequence : str
        What follows for the result.
    """
    is_whole = 0 < n_rows <= skipped.n_rows
    if not (skipped.n_overflowing or is_whole):
        return
    remedies = []
    if skipped.n_overflowing:
        remedies.append(
            "Look for fill values such as 1e300, and remove these rows or set the values to NaN "
            "with missing='drop' or 'em'"
        )
    if is_whole and skipped.n_missing:
        remedies.append("Fill the missing values, or see that the right columns are read")
    if is_whole and skipped.n_weightless:
        remedies.append("Give positive weights to the rows that are to count")
    which = "no row could be used; " if is_whole else ""
    warn(". ".join([f"{which}{skipped}{consequence}", *remedies]), LeftOutRowsWarning)


def _describe_components(condition: Condition, names: Sequence[str]) -> str:
    """Return one message on all degenerate components: their numbers, reasons and remedies."""
    components, few = condition.components, condition.most_undetermined_rows
    has_rank = few < len(names)
    needed = f"rank + 2, which is {few:,}" if has_rank else f"the {len(names):,} column(s)"
    details: dict[str, Callable[[DegenerateComponent], str]] = {
        "weight 0": lambda own: "" if own.has_weight else f"{own.number}",
        f"no more rows than {needed}": lambda own: (
            "" if own.n_rows is None else f"{own.number} ({own.n_rows:.4g} row(s))"
        ),
        "mostly ridge": lambda own: (
            "" if own.ridge is None else f"{own.number} ({_describe_share(own.ridge, names)})"
        ),
        "lost all rows or collapsed onto few during the fit": lambda own: (
            f"{own.number}" if own.was_lost else ""
        ),
    }
    numbers = _listed([str(own.number) for own in components], _NUMBERED)
    message = f"component(s) {numbers} of the mixture say little of the data"
    for reason, describe in details.items():
        named = [text for text in map(describe, components) if text]
        if named:
            message += f"; {reason}: component(s) {_listed(named, _DESCRIBED)}"
    reasons = {reason for own in components for reason in own.reasons}
    if reasons != {"ridge"}:
        remedies = ["Reduce n_components"]
        if has_rank and "rows" in reasons:
            fewest = min(own.n_rows for own in components if own.n_rows is not None)
            supported = math.ceil(fewest) - 3
            if supported >= 0:
                which = "" if supported else " (diagonal covariances)"
                remedies.append(f"use rank={supported}{which}, which all of these rows support")
        message += f". {_alternatives([*remedies, 'fit more rows'], ',')}"
    if "ridge" in reasons:
        message += (
            ". Where the ridge hides a real width, use a smaller reg_covar or scale the column; "
            "where rows are repeated, reduce n_components"
        )
    return message


def _describe_share(share: RidgeShare, names: Sequence[str]) -> str:
    columns = _listed([names[j] for j in share.columns], _NAMED)
    place = "along a combination of columns" if share.is_direction else "in column(s)"
    worst = int(np.argmin(share.variances / share.ridges))
    return (
        f"variance {share.variances[worst]:.3g} {place} {columns}, of which "
        f"{share.ridges[worst]:.3g} is reg_covar"
    )


def _describe_columns(share: RidgeShare, names: Sequence[str], model: Any) -> str:
    details = [
        f"{names[j]} (variance {variance:.3g}, ridge {ridge:.3g})"
        for j, variance, ridge in zip(
            share.columns[: _NAMED + 1], share.variances, share.ridges, strict=False
        )
    ]
    more = len(share.columns) - _NAMED
    listed = ", ".join(details[:_NAMED]) + (f", and {more:,} more" if more > 0 else "")
    remedies = ["a smaller reg_covar"]
    # With "em" it stands for the same ridge in all columns.
    if getattr(model, "algorithm", "") != "em" and not isinstance(model.reg_covar, str):
        remedies.insert(0, "reg_covar='auto'")
    return (
        f"column(s) whose variance is below {NARROW:g} times the ridge: {listed}. The ridge "
        f"(reg_covar, in squared units of the data) hides differences in them; use "
        f"{_alternatives(remedies)}, or scale the column(s)"
    )


def _column_names(model: Any) -> list[str]:
    names: Iterable[Any] = getattr(model, "feature_names_in_", range(model.n_features_in_))
    return [str(name) for name in names]


def _listed(names: Sequence[str], most: int) -> str:
    """Return the first names, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def _alternatives(choices: Sequence[str], last_comma: str = "") -> str:
    *first, last = choices
    return f"{', '.join(first)}{last_comma} or {last}" if first else last


def _most(holds: Callable[[int], bool], below: int) -> int:
    """Return the largest number below some number for which a condition holds, or 0."""
    low, high = 0, below
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def warn(message: str, category: type[Warning]) -> None:
    """Warn where code outside of the package called it."""
    level = 1
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
