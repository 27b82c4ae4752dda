"""Messages of the command line name its options, and no argument of Python."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import click
import h5py
import numpy as np
import pyarrow.parquet
import pytest
import xarray
import zarr

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture, cli
from streamgmm.cli.vocabulary import in_options

# Warnings are output here, as they are in a shell.
pytestmark = pytest.mark.filterwarnings("default::UserWarning")

ROWS = np.random.default_rng(0).normal(size=(300, 3))
FIT = ("-k", "2", "-o", "out.gmm", "-q")

# Command lines that fail, and what their message has to say.
LINES: list[tuple[tuple[str, ...], str]] = [
    (("fit", "nan.npy", *FIT), "by --missing drop, or use their other values by --missing em"),
    (("predict", "m.gmm", "nan.npy", "-o", "p.npy"), "by --missing drop"),
    (("score", "m.gmm", "nan.npy"), "by --missing drop"),
    (("update", "o.gmm", "nan.npy"), "by --missing drop"),
    (("fit", "tables.zarr", *FIT), "as in --path a$"),
    (("fit", "vectors.zarr", *FIT), "as in --variables a,b$"),
    (("fit", "vectors.h5", *FIT), "as in --variables a,b$"),
    (("fit", "vectors.h5::/a", *FIT), "as in --variables a$"),
    (("fit", "group.nc", *FIT), "as in --path /g and --variables a,b$"),
    (("fit", "tables.h5", *FIT), r"as in .*tables\.h5::/a$"),
    (("plot", "m.gmm", "-o", "p.png", "--data", "vectors.h5"), "as in --variables a,b$"),
    (("plot", "m.gmm", "-o", "p.png", "--data", "tables.zarr"), "as in --path a$"),
    (("update", "o.gmm", "vectors.h5"), "as in --variables a,b$"),
    (("score", "m.gmm", "vectors.h5"), "as in --variables a,b$"),
    (("predict", "m.gmm", "vectors.h5", "-o", "p.npy"), "as in --variables a,b$"),
    (("fit", "cube.zarr", *FIT, "--feature-dim", "x"), "cannot be found by --feature-dim"),
    (("fit", "mixed.nc", *FIT, "--variables", "q,p"), "by --variables, or say by --feature-dim"),
    (("fit", "mixed.nc", *FIT, "--variables", "zz"), "has no variable 'zz'"),
    (("fit", "text.parquet", *FIT), r"naming the others: --columns \.\.\."),
    (("fit", "x.npy", *FIT, "--columns", "a"), "remove --columns; .* takes --storage-option$"),
    (("fit", "x.npy", *FIT, "--feature-dim", "q"), "remove --feature-dim"),
    (
        ("score", "m.gmm", "tables.zarr", "--columns", "a"),
        "remove --columns; a Zarr store takes",
    ),
    (("fit", "x.npy", *FIT, "--sample-weight", "seven.npy"), r"--sample-weight has shape \(7,\)"),
    (("fit", "x.npy", *FIT, "--sample-weight", ""), "the path of the data is empty"),
    (("update", "o.gmm", ".", "--sample-weight", "seven.npy"), "--sample-weight for the rows"),
    (("fit", "x.npy", *FIT, "--checkpoint", "c"), "--resume continues that fit"),
    (
        ("fit", "x.npy", "-k", "3", "-o", "n.gmm", "-q", "--checkpoint", "c", "--resume"),
        r"--components was 2 and is 3.* model in c/model\.gmm: --start$",
    ),
    (("fit", "x.npy", "-k", "500", "-o", "n.gmm"), "--components = 500"),
    (("fit", "x.npy", *FIT, "--memory-limit", "1kB"), "within --memory-limit"),
    (("fit", "x.npy", *FIT, "--memory-limit", "abc"), "--memory-limit is 'abc'"),
    (("demo", "--memory-limit", "1kB", "--size", "1MB"), "within --memory-limit"),
    (("demo", "--size", "1kB"), "--size is 1000 bytes"),
    (("fit", "x.npy", *FIT, "-j", "0"), "--jobs is 0; give 1 or more, or remove it"),
    (("fit", "x.npy", *FIT, "--tol", "nan"), "--tol must be a float"),
    (("fit", "x.npy", *FIT, "--survey-part", "nan"), "--survey-part must be a float"),
    (("update", "n.gmm", "x.npy", "-k", "2", "--half-life", "nan"), "--half-life must be a float"),
    (("update", "o.gmm", "x.npy", "-k", "3"), "its --components is 2 and not 3"),
    (("update", "o.gmm", "x.npy", "--seed", "1"), "its --seed is 0 and not 1"),
    (("update", "o.gmm", "x.npy", "-j", "0"), "--jobs is 0"),
    (("update", "o.gmm", "x.npy", "--batch-id", ""), "--batch-id is ''"),
    (("update", "m.gmm", "x.npy", "-t", "diag"), "its --covariance-type is 'full'"),
    (("fit", "two.npy", "--start", "m.gmm", "-o", "n.gmm"), "--start should have the shape"),
    (("fit", "x.npy", "-k", "3", "--start", "m.gmm", "-o", "n.gmm"), "m.gmm has 2 components"),
    (("fit", "s3://b/x", *FIT), "a URL has to end in"),
    (("fit", "unheard://b/x.npy", *FIT), "Protocol not known: unheard"),
    (("fit", "gone*.npy", *FIT), r"no file that can be read .* matches the pattern gone\*\.npy"),
    (("plot", "m.gmm", "-o", "p.png", "--data", "two.npy"), "two.npy has 2 features"),
    (("plot", "m.gmm", "-o", "p.png", "--path", "a"), "need --data"),
    (("plot", "m.gmm", "-o", "p.png", "--features", "7"), "numbers from 0 to 2"),
    # What must be local says so of a URL.
    (("fit", "x.npy", "-k", "2", "-o", "s3://b/m.gmm"), "s3://b/m.gmm is a URL"),
    (("fit", "x.npy", "--start", "s3://b/m.gmm", "-o", "n.gmm"), "s3://b/m.gmm is a URL"),
    (("predict", "s3://b/m.gmm", "x.npy", "-o", "p.npy"), "s3://b/m.gmm is a URL"),
    (("predict", "m.gmm", "x.npy", "-o", "s3://b/p.npy"), "s3://b/p.npy is a URL"),
    (("score", "s3://b/m.gmm", "x.npy"), "s3://b/m.gmm is a URL"),
    (("score", "m.gmm", "x.npy", "--samples", "-o", "s3://b/p.npy"), "s3://b/p.npy is a URL"),
    (("sample", "m.gmm", "-n", "5", "-o", "s3://b/x.npy"), "s3://b/x.npy is a URL"),
    (("sample", "m.gmm", "-n", "5", "-o", "r.npy", "--labels", "s3://b/l.npy"), "is a URL"),
    (("update", "s3://b/m.gmm", "x.npy", "-k", "2"), "s3://b/m.gmm is a URL"),
    (("info", "s3://b/m.gmm"), "s3://b/m.gmm is a URL"),
    (("plot", "m.gmm", "-o", "s3://b/p.png"), "s3://b/p.png is a URL"),
    (("demo", "--directory", "s3://b"), "s3://b is a URL"),
    (("demo", "-o", "s3://b/p.png"), "s3://b/p.png is a URL"),
    # What may be a URL stays one.
    (("plot", "m.gmm", "-o", "p.png", "--data", "memory://b/x.parquet"), "memory:///?b/x.parquet"),
    (("fit", "memory://b/x.npy", *FIT), "memory:///?b/x.npy"),
    (("predict", "m.gmm", "memory://b/x.npy", "-o", "p.npy"), "memory:///?b/x.npy"),
    (("score", "m.gmm", "memory://b/x.npy"), "memory:///?b/x.npy"),
    (("update", "o.gmm", "memory://b/x.npy"), "memory:///?b/x.npy"),
    (("fit", "x.npy", *FIT, "--sample-weight", "memory://b/w.npy"), "memory:///?b/w.npy"),
    (("fit", "x.npy", *FIT, "--checkpoint", "unheard://b/c"), "unheard://b/c"),
    (("fit", "~/x.npy", *FIT), "~ is not replaced by a home directory here; write /"),
    (("fit", "", *FIT), "the path of the data is empty"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs, good and bad."""
    folder = tmp_path_factory.mktemp("inputs")
    np.save(folder / "x.npy", ROWS)
    np.save(folder / "two.npy", ROWS[:, :2])
    np.save(folder / "seven.npy", np.ones(7))
    bad = ROWS.copy()
    bad[3, 1] = np.nan
    np.save(folder / "nan.npy", bad)
    tables, vectors = (zarr.create_group(folder / f"{name}.zarr") for name in ("tables", "vectors"))
    for name in "ab":
        tables.create_array(name, data=ROWS)
        vectors.create_array(name, data=ROWS[:, 0], dimension_names=["t"])
    zarr.create_array(folder / "cube.zarr", data=np.ones((5, 4, 3)))
    with h5py.File(folder / "vectors.h5", "w") as file:
        file["a"], file["b"] = ROWS[:, 0], ROWS[:, 1]
    with h5py.File(folder / "tables.h5", "w") as file:
        file["a"], file["b"] = ROWS, ROWS
    columns = {"a": ROWS[:, 0], "s": ["x"] * len(ROWS)}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "text.parquet")
    cube, sheet = ROWS[:60].reshape(5, 12, 3), ROWS[:60, 0].reshape(5, 12)
    xarray.Dataset({"q": (("t", "y", "x"), cube), "p": (("t", "y"), sheet)}).to_netcdf(
        folder / "mixed.nc", engine="h5netcdf"
    )
    xarray.Dataset({"a": ("t", ROWS[:, 0]), "b": ("t", ROWS[:, 1])}).to_netcdf(
        folder / "group.nc", group="g", engine="h5netcdf"
    )
    GaussianMixture(2, random_state=0).fit(ROWS).save(folder / "m.gmm")
    OnlineGaussianMixture(2, random_state=0).partial_fit(ROWS).save(folder / "o.gmm")
    GaussianMixture(2, random_state=0, checkpoint=folder / "c").fit(ROWS)
    return folder


def arguments_of_python() -> set[str]:
    """Arguments of the library that are no words of English."""
    functions = [
        streamgmm.open,
        streamgmm.update,
        GaussianMixture,
        OnlineGaussianMixture,
        GaussianMixture.fit,
        GaussianMixture.predict,
    ]
    names = {name for function in functions for name in inspect.signature(function).parameters}
    return {name for name in names if "_" in name} | {"tol", "n_samples", "n_features"}


def help_of(name: str) -> str:
    command = cli.main.commands[name]
    return command.get_help(click.Context(command, parent=click.Context(cli.main)))


@pytest.fixture
def fail(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[tuple[str, ...]], str]:
    """Run a command line that fails, and give its message."""
    monkeypatch.chdir(folder)

    def run(words: tuple[str, ...]) -> str:
        before = {path.name for path in folder.iterdir()}
        with pytest.raises(SystemExit) as stop:
            cli.main([*words], prog_name="streamgmm")
        assert stop.value.code == 2
        captured = capsys.readouterr()
        lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert captured.out == "" or words[0] == "demo"
        made = {path.name for path in folder.iterdir()} - before
        assert made == set()
        return lines[0]

    return run


@pytest.mark.parametrize(("words", "message"), LINES, ids=[" ".join(words) for words, _ in LINES])
def test_messages_name_options_of_their_command(
    words: tuple[str, ...], message: str, fail: Callable[[tuple[str, ...]], str]
) -> None:
    found = fail(words)
    assert re.search(message, found), found
    for name in arguments_of_python():
        assert not re.search(rf"(?<![\w/'-]){name}\b", found), (name, found)
    assert not re.search(r"\b[a-z_]+=('|True|False|None|\[|[,;.]|$| )", found), found
    assert "streamgmm." not in found
    shown = help_of(words[0])
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", found):
        assert option in shown or option == "--help", (option, found)


def test_warnings_name_options(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    words = ["fit", "x.npy", "-k", "2", "-o", "w.gmm", "-q", "--algorithm", "em", "--max-iter", "1"]
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--tol", "1e-12"], prog_name="streamgmm")
    assert not stop.value.code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ")
    assert "increase --max-iter or --tol" in line
    (folder / "w.gmm").unlink()


TEXTS = {
    "give out=, a path": "give --output, a path",
    "missing='drop' or missing=\"em\"": "--missing drop or --missing em",
    "columns=['a', 'b c']": "--columns a,b c",
    "resume=True continues": "--resume continues",
    "streamgmm.open(batch, missing='drop') helps": "--missing drop helps",
    "n_components= and reg_covar, max_iter.": "--components and --reg-covar, --max-iter.",
    "weights_init=, means_init= and precisions_init=": "--start",
    "The 'tol' parameter of GaussianMixture must be": "--tol must be",
    "batch_id is 5": "batch id is 5",
    # Names of data are not arguments.
    "/data/columns=3/sample_weight.npy": "/data/columns=3/sample_weight.npy",
    "columns=3/x.parquet": "columns=3/x.parquet",
    "no variable 'max_iter'; the columns of path": "no variable 'max_iter'; the columns of path",
    "random_state.npy and n_jobs-1.zarr": "random_state.npy and n_jobs-1.zarr",
}


@pytest.mark.parametrize("text", TEXTS)
def test_arguments_become_options(text: str) -> None:
    root = click.Context(cli.main)
    fit = click.Context(cli.main.commands["fit"], parent=root)
    predict = click.Context(cli.main.commands["predict"], parent=root)
    context = predict if "out=" in text else fit
    assert in_options(text, context) == TEXTS[text]


def test_a_table_with_a_log_of_its_own_is_refused(
    folder: Path, fail: Callable[[tuple[str, ...]], str]
) -> None:
    import deltalake

    deltalake.write_deltalake(str(folder / "delta"), pyarrow.table({"a": ROWS[:, 0]}))
    for words in (
        ("fit", "delta", *FIT),
        ("predict", "m.gmm", "delta", "-o", "p.npy"),
        ("score", "m.gmm", "delta/*.parquet"),
        ("update", "o.gmm", "delta"),
        ("plot", "m.gmm", "-o", "p.png", "--data", "delta"),
    ):
        assert "delta is a Delta table: its log" in fail(words)


def test_data_of_a_picture_are_described_as_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    for words in (
        ["--data", "tables.zarr", "--path", "a"],
        ["--data", f"file://{folder}/x.npy"],
        ["--data", "nan.npy", "--missing", "drop"],
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(["plot", "m.gmm", "-o", "p.png", *words], prog_name="streamgmm")
        assert not stop.value.code, capsys.readouterr().err
        Path("p.png").unlink()
