"""The command line with labelled data: outputs with coordinates, and the same names everywhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import xarray

from streamgmm import cli


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process, in a folder that holds a store."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    values = random.normal(size=(30, 12, 10)) + 8.0 * (np.arange(12) > 5)[:, np.newaxis]
    values[:, 0, 0] = np.nan
    dims = "time", "lat", "lon"
    data = xarray.Dataset({"t": (dims, values), "q": (dims, 2.0 * values + values**2)})
    data.assign_coords(lat=np.linspace(-60.0, 60.0, 12)).to_zarr("data.zarr", consolidated=False)

    def call(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            cli.main([*map(str, words)], prog_name="streamgmm")
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return call


def test_labels_keep_their_coordinates(run: Any) -> None:
    described = "--variables", "t,q", "--missing", "drop"
    code, _, error = run("fit", "data.zarr", *described, "--n-components", 2, "-o", "m.gmm")
    assert code == 0, error
    outputs = {
        "labels.zarr": lambda: xarray.open_zarr("labels.zarr"),
        "labels.nc": lambda: xarray.open_dataset("labels.nc"),
        "data.zarr::/labels": lambda: xarray.open_zarr(
            "data.zarr", group="labels", consolidated=False
        ),
    }
    for out, opened in outputs.items():
        # Neither variables nor missing values are described again.
        code, text, error = run("predict", "m.gmm", "data.zarr", "-o", out, "-q")
        assert code == 0, error
        found = opened()["component"].load()
        assert found["lat"].values[-1] == 60.0
        assert int(found.isnull().sum()) == 30
        code, text, error = run("predict", "m.gmm", "data.zarr", *described, "-o", out)
        assert code == 0, error
        assert text.startswith(f"{out}: labels, 30 × 12 × 10; rows of each component: ")
        assert text.endswith("30 without a component\n")
    code, text, _ = run("predict", "m.gmm", "data.zarr", "--proba", "-o", "shares.zarr")
    assert text == "shares.zarr: responsibilities, 30 × 12 × 10 × 2\n"
    code, text, _ = run("impute", "m.gmm", "data.zarr", "-o", "filled.nc")
    assert (code, text) == (0, "filled.nc: rows, 30 × 12 × 10 × 2\n")
    with xarray.open_dataset("filled.nc") as filled:
        assert {*filled.data_vars} == {"t", "q"}
    code, _, error = run("predict", "m.gmm", "data.zarr", "-o", "data.zarr")
    assert code == 2
    assert "data.zarr" in error
    code, _, error = run("predict", "m.gmm", "data.zarr", "-o", "data.zarr::/t")
    assert code == 2
    assert "will not be replaced" in error


def test_the_number_of_components_has_the_same_names_in_all_commands() -> None:
    options = {
        name: parameter.opts
        for name, command in cli.main.commands.items()
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.name == "n_components"
    }
    assert {*options} == {"fit", "select", "merge", "update"}
    for names in options.values():
        assert names == ["-k", "--components", "--n-components"]
