"""What importing costs, what names there are, and that documented examples run."""

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

import streamgmm

HEAVY = {"dask", "distributed", "zarr", "matplotlib", "h5py", "xarray", "rich", "click", "polars"}
# scikit-learn loads pandas where there is one, and pandas pyarrow; some versions load Narwhals.
SKLEARN = {"sklearn", "pandas", "pyarrow", "narwhals"}


def packages_after(statement: str) -> set[str]:
    """Top-level packages that a new interpreter has loaded after a statement."""
    script = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    assert run.stderr == ""
    return set(run.stdout.split())


def test_the_package_loads_nothing() -> None:
    assert not packages_after("import streamgmm; streamgmm.__version__") & (
        HEAVY | SKLEARN | {"numpy", "scipy", "numba"}
    )


def test_the_estimator_loads_no_backend() -> None:
    loaded = packages_after("from streamgmm import GaussianMixture; GaussianMixture()")
    assert "sklearn" in loaded
    assert not loaded & HEAVY


def test_transformers_load_no_backend() -> None:
    loaded = packages_after("from streamgmm import preprocessing; preprocessing.StandardScaler()")
    # scikit-learn's pipelines load Rich where there is one.
    assert not loaded & (HEAVY - {"rich"})


def test_fitting_arrays_loads_no_backend() -> None:
    loaded = packages_after(
        "import numpy as np\n"
        "from streamgmm import GaussianMixture\n"
        "X = np.random.default_rng(0).normal(size=(100, 2))\n"
        "GaussianMixture(random_state=0).fit(X).predict(X)"
    )
    assert not loaded & HEAVY


def test_loading_a_model_and_opening_data_are_light() -> None:
    assert not packages_after("from streamgmm import open") & (HEAVY | SKLEARN)
    assert not packages_after("import streamgmm.sources.open") & (HEAVY | SKLEARN)


@pytest.mark.parametrize(
    "module", ["core", "events", "protocols", "algorithms", "executors", "persistence"]
)
def test_lower_layers_do_not_load_scikit_learn(module: str) -> None:
    assert not packages_after(f"import streamgmm.{module}") & (HEAVY | SKLEARN)


def test_names() -> None:
    modules = ["errors", "events", "plotting", "preprocessing", "testing"]
    assert dir(streamgmm) == sorted([*streamgmm.__all__, *modules])
    for name in dir(streamgmm):
        assert getattr(streamgmm, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'unheard_of'"):
        _ = streamgmm.unheard_of
    assert streamgmm.__version__


def modules_with_examples() -> list[str]:
    """Every module of the package that shows an example."""
    found = []
    for module in pkgutil.walk_packages(streamgmm.__path__, "streamgmm."):
        if module.name.endswith("__main__"):
            continue
        loaded = importlib.import_module(module.name)
        if any(test.examples for test in doctest.DocTestFinder().find(loaded)):
            found.append(module.name)
    return found


def test_examples_run() -> None:
    names = modules_with_examples()
    assert "streamgmm.sources.open" in names
    assert any(name.startswith("streamgmm.estimators") for name in names)
    for name in names:
        result = doctest.testmod(importlib.import_module(name))
        assert result.attempted > 0
        assert result.failed == 0, name
