"""Gaussian mixture models for data larger than memory.

A source gives chunks of rows; compiled kernels turn each chunk into sufficient statistics;
statistics merge; an M-step turns them into parameters, and the next pass begins. Lower
layers never import higher ones::

    errors < core, events < protocols < sources, sinks, executors, persistence
           < algorithms < checkpoint < estimators, preprocessing, plotting, progress < updates < cli

Importing this package loads nothing; names load what they need when they are first used.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamgmm.core.priors import Prior
    from streamgmm.estimators import (
        GaussianMixture,
        GaussianMixtureSearch,
        KMeans,
        OnlineGaussianMixture,
        load,
        save,
    )
    from streamgmm.sources.named_weights import cos_latitude
    from streamgmm.sources.open import open_source as open  # noqa: A004 - a name of its own place
    from streamgmm.updates import update

__version__ = version("streamgmm")
__all__ = [
    "GaussianMixture",
    "GaussianMixtureSearch",
    "KMeans",
    "OnlineGaussianMixture",
    "Prior",
    "__version__",
    "cos_latitude",
    "load",
    "open",
    "save",
    "update",
]

_HOMES = {
    "GaussianMixture": ("streamgmm.estimators", "GaussianMixture"),
    "GaussianMixtureSearch": ("streamgmm.estimators", "GaussianMixtureSearch"),
    "KMeans": ("streamgmm.estimators", "KMeans"),
    "OnlineGaussianMixture": ("streamgmm.estimators", "OnlineGaussianMixture"),
    "Prior": ("streamgmm.core.priors", "Prior"),
    "cos_latitude": ("streamgmm.sources.named_weights", "cos_latitude"),
    "load": ("streamgmm.estimators", "load"),
    "open": ("streamgmm.sources.open", "open_source"),
    "save": ("streamgmm.estimators", "save"),
    "update": ("streamgmm.updates", "update"),
}
# Modules that are loaded when they are first used.
_MODULES = ("errors", "events", "plotting", "preprocessing", "testing")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
