"""The command line, as users and shells see it: output, messages, exit codes, signals."""

import inspect
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pandas
import pyarrow
import pytest
import zarr

import streamgmm
from streamgmm import GaussianMixture, OnlineGaussianMixture, cli
from streamgmm.cli import commands
from streamgmm.cli.describe import print_history, summary
from streamgmm.core.kernels.compilation import cache_folder
from streamgmm.core.parameters import PARAMETER_NAMES
from streamgmm.core.structures import STRUCTURES

# Warnings are output here, as they are in a shell.
pytestmark = pytest.mark.filterwarnings("default::UserWarning")

N_ROWS = 4000
PROGRAM = (sys.executable, "-m", "streamgmm")


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs, good and bad."""
    folder = tmp_path_factory.mktemp("inputs")
    random = np.random.default_rng(0)
    rows = np.vstack([random.normal(size=(3000, 3)), random.normal(6.0, 2.0, size=(1000, 3))])
    random.shuffle(rows)
    np.save(folder / "data.npy", rows)
    np.save(folder / "weights.npy", np.ones(N_ROWS))
    np.save(folder / "ramp.npy", np.linspace(0, 1, N_ROWS))
    np.save(folder / "two.npy", rows[:, :2])
    np.save(folder / "few.npy", rows[:3])
    np.save(folder / "none.npy", rows[:0])
    np.save(folder / "vector.npy", rows[:, 0])
    np.save(folder / "complex.npy", rows.astype(complex))
    np.save(folder / "objects.npy", np.array([[1, "a"]], dtype=object), allow_pickle=True)
    bad = rows.copy()
    bad[17, 2], bad[3000, 0] = np.nan, np.inf
    np.save(folder / "nan.npy", bad)
    (folder / "empty.npy").touch()
    (folder / "table.csv").touch()
    (folder / "no-array").mkdir()
    array = zarr.create_array(folder / "data.zarr", shape=rows.shape, dtype="f8", chunks=(1000, 3))
    array[:] = rows
    zarr.create_group(folder / "group.zarr").create_array("inner", shape=(4, 2), dtype="f8")
    (folder / "junk.gmm").write_text("junk")
    model = GaussianMixture(2, random_state=0).fit(rows)
    model.save(folder / "model.gmm")
    whole = (folder / "model.gmm").read_bytes()
    (folder / "damaged.gmm").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture
def run(files: Path, tmp_path: Path, monkeypatch, capsys) -> Callable[..., Result]:
    """Run a command in this process, in a folder of its own; names of inputs are replaced."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> Result:
        arguments = [
            str(files / str(word)) if (files / str(word)).exists() else str(word) for word in words
        ]
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments, prog_name="streamgmm")
        captured = capsys.readouterr()
        return Result(int(stop.value.code or 0), captured.out, captured.err)

    return call


def _listing(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def _scores(text: str) -> dict[str, float]:
    """Names and numbers that begin the lines of a score."""
    return {name: float(value) for name, value, *_ in map(str.split, text.splitlines())}


# What the commands do


def test_a_fit_writes_its_model_and_says_so(run, tmp_path):
    result = run("fit", "data.npy", "-k", 2, "-o", "m.gmm", "--seed", 0)
    assert result.code == 0
    assert result.out.startswith("m.gmm: 2 components (full) of 3 features, log-likelihood -")
    assert "converged after" in result.out
    size, *lines = result.err.splitlines()
    assert size.startswith("4,000 rows of 3 features, 2 components, 19 parameters; 96 kB and ")
    assert lines[0].startswith("pass 1, survey, ")
    assert lines[1] == "4,000 rows surveyed; sample of 4,000"
    stages = [line.partition(":")[0] for line in lines[2:5]]
    assert stages == ["sample, starts", "sample, split and merge", "sample, EM"]
    assert lines[5].startswith("pass 2, iteration 1, log-likelihood -")
    reads = [line for line in lines if line.startswith("pass ")]
    assert all("rows/s" in line and "B/s" in line for line in reads)
    model = streamgmm.load(tmp_path / "m.gmm")
    assert len(reads) == len(lines) - 4 == model.n_reads_
    assert sorted(model.weights_) == pytest.approx([0.25, 0.75], abs=0.02)
    assert _listing(tmp_path) == {"m.gmm"}


def test_settings_reach_the_estimator(run, files, tmp_path):
    settings = {
        "covariance_type": "diag",
        "tol": 0.5,
        "reg_covar": 1e-4,
        "max_iter": 7,
        "n_init": 2,
        "init_params": "random_from_data",
        "random_state": 3,
        "algorithm": "auto",
        "survey_part": 0.5,
        "n_jobs": 1,
        "memory_limit": "8GiB",
        "executor": "threads",
    }
    renamed = {"random_state": "seed", "n_jobs": "jobs"}
    options = [
        word
        for name, value in settings.items()
        for word in (f"--{renamed.get(name, name).replace('_', '-')}", value)
    ]
    result = run(
        "fit", "data.zarr", "-k", 3, "-o", "m.gmm", "-q", "--sample-weight", "weights.npy", *options
    )
    assert result == Result(0, "", "")
    fitted = streamgmm.load(tmp_path / "m.gmm")
    # A file names no executor.
    assert fitted.get_params() | settings == {**fitted.get_params(), "executor": "threads"}
    expected = GaussianMixture(3, **settings).fit(files / "data.zarr")
    np.testing.assert_array_equal(fitted.means_, expected.means_)


def test_options_have_the_defaults_and_choices_of_the_estimator():
    parameters = {parameter.name: parameter for parameter in commands.fit.params}
    signature = inspect.signature(GaussianMixture).parameters
    for name in (
        "tol",
        "reg_covar",
        "max_iter",
        "n_init",
        "init_params",
        "algorithm",
        "survey_part",
        "executor",
    ):
        assert parameters[name].default == signature[name].default
    assert set(parameters["covariance_type"].type.choices) == {*STRUCTURES, "low_rank"}
    assert set(parameters["fixed"].type.choices) == set(PARAMETER_NAMES)


def test_weights_are_held_equal(run, files, tmp_path):
    words = "fit", "data.npy", "-k", 2, "-o", "m.gmm", "--seed", 0, "--fixed", "weights"
    assert run(*words).code == 0
    assert streamgmm.load(tmp_path / "m.gmm").weights_.tolist() == [0.5, 0.5]


def test_a_fit_goes_on_from_a_model_with_parts_of_it_fixed(run, files, tmp_path):
    fixed = ["--fixed", "means", "--fixed", "weights"]
    result = run("fit", "data.npy", "--start", "model.gmm", "-o", "m.gmm", "--tol", 1e-9, *fixed)
    assert result.code == 0
    start, fitted = streamgmm.load(files / "model.gmm"), streamgmm.load(tmp_path / "m.gmm")
    np.testing.assert_array_equal(fitted.means_, start.means_)
    np.testing.assert_array_equal(fitted.weights_, start.weights_)
    assert not np.array_equal(fitted.covariances_, start.covariances_)
    assert "pass 1, iteration 1" in result.err


def test_a_fit_that_does_not_converge_is_kept_with_a_warning(run, tmp_path):
    options = ["--algorithm", "em", "--max-iter", 1, "-q"]
    result = run("fit", "data.npy", "-k", 2, "-o", "m.gmm", *options)
    assert result.code == 0
    assert result.err.startswith("warning: ")
    assert "did not converge in 1 iterations" in result.err
    assert len(result.err.splitlines()) == 1
    assert not streamgmm.load(tmp_path / "m.gmm").converged_


def test_an_update_learns_what_is_new(run, files, tmp_path):
    settings = ["-k", 2, "--half-life", 1e6, "--init-size", 2000, "--seed", 0]
    result = run("update", "m.gmm", "data.zarr", *settings)
    assert result.code == 0
    assert result.out == (
        "m.gmm: 4,000 new rows; 2 components (full) of 3 features, 4,000 rows learned, "
        "no change detected\n"
    )
    *_, found, last = result.err.splitlines()
    assert "mixture found among 2,000 rows" in found
    assert last == f"file://{files / 'data.zarr'}: 4,000 rows learned, 4,000 in all"
    assert run("update", "m.gmm", "data.zarr", *settings, "-q") == Result(0, "", "")
    result = run("update", "m.gmm", "data.npy", "--batch-id", "2026-11-20")
    assert (
        result.err == f"{files / 'data.npy'} (batch 2026-11-20): 4,000 rows learned, 8,000 in all\n"
    )
    result = run("update", "m.gmm", "data.npy", "--batch-id", "2026-11-20")
    assert result.err == "batch 2026-11-20 was learned before\n"
    assert result.out.startswith("m.gmm: 0 new rows; ")
    model = streamgmm.load(tmp_path / "m.gmm")
    assert (model.half_life, model.init_size, model.random_state) == (1e6, 2000, 0)
    shown = run("info", "m.gmm").out.splitlines()
    assert shown[1:3] == [
        "1 batches known by their ids, the last 2026-11-20",
        f"{files / 'data.zarr'} up to row 4,000",
    ]
    found = json.loads(run("info", "m.gmm", "--json").out)
    assert list(found["ledger"]["batches"]["entries"]) == ["2026-11-20"]
    assert _listing(tmp_path) == {"m.gmm"}


def test_a_model_without_a_mixture_is_described(run, tmp_path):
    OnlineGaussianMixture(5).save(tmp_path / "m.gmm")
    assert run("info", "m.gmm").out == "m.gmm: 5 components (full) to be found, 0 rows learned\n"
    result = run("update", "m.gmm", "few.npy", "-q")
    assert result == Result(0, "", "")
    assert "5 components (full) to be found, 3 rows learned" in run("info", "m.gmm").out
    assert "means" not in json.loads(run("info", "m.gmm", "--json").out)


def test_updates_that_cannot_be_made(run, tmp_path):
    for words, message in (
        (["data.npy"], "There is no m.gmm; give -k to begin it."),
        (["absent.npy", "-k", 2], "absent.npy: no such file or directory"),
        (["data.npy", "-k", 2, "--follow", "--batch-id", "a"], "--follow is for data that grow"),
        (["-", "-k", 2, "--follow"], "--follow is for data that grow"),
        (["nan.npy", "-k", 2, "-q"], "row 17 column 2"),
        (["data.npy", "-k", 2, "--half-life", 0], "--half-life"),
        (["data.npy", "-k", 2, "--follow", "--poll", "inf"], "--poll"),
    ):
        result = run("update", "m.gmm", *words)
        assert (result.code, result.out) == (2, "")
        assert message in result.err
        assert len(result.err.splitlines()) == 1
        assert not (tmp_path / "m.gmm").exists()
    assert run("update", "m.gmm", "data.npy", "-k", 2, "-q").code == 0
    result = run("update", "m.gmm", "two.npy", "-k", 3)
    assert (result.code, result.out) == (2, "")
    assert "its --components is 2 and not 3" in result.err
    result = run("update", "m.gmm", "two.npy")
    assert "2 features, but OnlineGaussianMixture is expecting 3" in result.err


def arrow_stream(table, rows_a_batch):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_a_batch)
    return sink.getvalue().to_pybytes()


def npy_files(*arrays):
    file = BytesIO()
    for array in arrays:
        np.save(file, array)
    return file.getvalue()


def test_tables_are_learned_from_standard_input(files, tmp_path):
    rows = np.load(files / "data.npy")
    table = pyarrow.table({"a": rows[:, 0], "b": rows[:, 1].astype("f4"), "n": range(len(rows))})
    gaps = table.set_column(0, "a", pyarrow.array([None, *rows[1:, 0]]))
    cases = {
        "npy": (npy_files(rows[:2500], rows[2500:]), [], 4000),
        "arrow": (arrow_stream(table, 1500), [], 4000),
        "columns": (arrow_stream(table, 1500), ["--columns", "b,a"], 4000),
        "missing": (arrow_stream(gaps, 1500), ["--missing", "drop"], 3999),
    }
    for name, (content, options, n_rows) in cases.items():
        path = tmp_path / f"{name}.gmm"
        command = [*PROGRAM, "update", path, "-", "-k", "2", "--init-size", "1000", *options]
        ended = subprocess.run(command, input=content, capture_output=True)
        assert ended.returncode == 0, ended.stderr
        model = streamgmm.load(path)
        assert model.n_samples_seen_ == n_rows
        assert ended.stderr.decode().count("standard input, table") == (2 if name == "npy" else 3)
    names = streamgmm.load(tmp_path / "columns.gmm").feature_names_in_
    assert names.tolist() == ["b", "a"]
    for content, message in (
        (npy_files(rows)[:-8], "table 1 cannot be read or decoded"),
        (arrow_stream(table, 1500)[:-10_000], "table 3 cannot be read or decoded"),
        (b"text", "an Arrow IPC stream, or .npy arrays"),
        (b"", "standard input is empty"),
        (arrow_stream(gaps, 1500), "standard input, table 1: Input contains NaN"),
    ):
        command = [*PROGRAM, "update", tmp_path / "bad.gmm", "-", "-k", "2", "-q"]
        ended = subprocess.run(command, input=content, capture_output=True)
        assert ended.returncode == 2
        assert message in ended.stderr.decode()
        assert len(ended.stderr.splitlines()) == 1


def test_standard_input_that_is_closed_is_named(tmp_path):
    command = [*PROGRAM, "update", tmp_path / "m.gmm", "-", "-k", "2"]
    command = f"{shlex.join(map(str, command))} <&-"
    ended = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "Standard input is closed" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_data_that_grow_are_followed_until_a_signal(tmp_path):
    path, folder = tmp_path / "m.gmm", tmp_path / "nights"
    folder.mkdir()
    random = np.random.default_rng(0)
    command = [*PROGRAM, "update", path, folder, "-k", "2", "--follow", "--poll", "0.05"]
    n_files = 0

    def learned(follower):
        lines = iter(follower.stderr.readline, "")
        return next(line.partition(": ")[2] for line in lines if " learned, " in line)

    for number, code in ((signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 130)):
        np.save(folder / f"{n_files}.npy", random.normal(size=(100, 2)))
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as follower:
            for _ in range(3):
                n_files += 1
                assert learned(follower) == f"100 rows learned, {100 * n_files} in all\n"
                # Written elsewhere, it is there as a whole.
                np.save(tmp_path / "next.npy", random.normal(size=(100, 2)))
                (tmp_path / "next.npy").rename(folder / f"{n_files}.npy")
            learned(follower)
            n_files += 1
            follower.send_signal(number)
            rest = follower.stderr.read()
        assert follower.returncode == code
        assert "Traceback" not in rest
    assert streamgmm.load(path).n_samples_seen_ == 100 * n_files == 800


def test_predictions_and_scores_are_those_of_the_model(run, files, tmp_path):
    model, rows = streamgmm.load(files / "model.gmm"), np.load(files / "data.npy")
    result = run("predict", "model.gmm", "data.zarr", "-o", "labels.npy")
    assert result.code == 0
    assert result.err.startswith("labels, ")
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), model.predict(rows))
    assert run("predict", "model.gmm", "data.npy", "-o", "p.zarr", "--proba", "-q").err == ""
    np.testing.assert_allclose(
        zarr.open_array(tmp_path / "p.zarr", mode="r")[:], model.predict_proba(rows), atol=1e-12
    )
    assert run("score", "model.gmm", "data.npy", "--samples", "-o", "s.npy").code == 0
    np.testing.assert_allclose(np.load(tmp_path / "s.npy"), model.score_samples(rows), rtol=1e-12)
    result = run("score", "model.gmm", "data.zarr", "-q")
    total = f"{4000 * model.score(rows):.10g} nats in total"
    assert f" nats per row (mean of 4,000), {total}" in result.out
    printed = _scores(result.out)
    assert printed == pytest.approx(
        {"log-likelihood": model.score(rows), "aic": model.aic(rows), "bic": model.bic(rows)}
    )
    assert _listing(tmp_path) == {"labels.npy", "p.zarr", "s.npy"}


def test_a_weighted_score(run, files):
    model, rows = streamgmm.load(files / "model.gmm"), np.load(files / "data.npy")
    result = run("score", "model.gmm", "data.npy", "--sample-weight", "ramp.npy", "-q")
    found = _scores(result.out)
    weights = np.load(files / "ramp.npy")
    assert found == pytest.approx(
        {
            "log-likelihood": np.average(model.score_samples(rows), weights=weights),
            "aic": model.aic(rows, sample_weight=weights),
            "bic": model.bic(rows, sample_weight=weights),
        }
    )


def test_rows_with_gaps_are_left_out_if_that_is_said(run, files, tmp_path):
    rows = np.load(files / "data.npy")
    rows[::10, 1] = np.nan
    np.save("gaps.npy", rows)
    fitted = ("fit", "gaps.npy", "-k", 2, "-o", "m.gmm", "--seed", 0)
    assert "contains NaN or infinity" in run(*fitted).err
    assert run(*fitted, "--missing", "drop").code == 0
    n_missing = len(rows[::10])
    history = streamgmm.load("m.gmm").history_
    assert {read["n_missing"] for read in history} == {0, n_missing}
    score = run("score", "m.gmm", "gaps.npy", "--missing", "drop")
    assert score.out.splitlines()[2].startswith("bic ")
    assert run("predict", "m.gmm", "gaps.npy", "--missing", "drop", "-o", "l.npy").code == 0
    np.testing.assert_array_equal(np.load("l.npy")[::10], -1)
    assert np.load("l.npy")[1::10].min() == 0


def test_what_is_described_reaches_the_source(run, files, tmp_path):
    inner = str(files / "group.zarr")
    assert "inner" in run("fit", inner, "-k", 1, "-o", "m.gmm").err
    assert run("fit", inner, "--path", "inner", "-k", 1, "-o", "m.gmm").code == 0
    wrong = run("fit", "data.npy", "--columns", "a,b", "-k", 1, "-o", "m.gmm")
    assert "columns has no meaning for a .npy file" in wrong.err
    assert "KEY=VALUE" in run("fit", inner, "--storage-option", "a", "-k", 1, "-o", "m.gmm").err


def test_values_that_are_missing_are_filled(run, files, tmp_path):
    rows = np.load(files / "data.npy")[:100].copy()
    rows[::4, 1] = np.nan
    np.save(tmp_path / "gaps.npy", rows)
    result = run("impute", "model.gmm", "gaps.npy", "-o", "filled.npy")
    assert result.out == "filled.npy: rows, 100 × 3\n"
    filled = np.load(tmp_path / "filled.npy")
    np.testing.assert_array_equal(filled, streamgmm.load(files / "model.gmm").impute(rows))
    assert np.isfinite(filled).all()


def test_models_are_merged(run, files, tmp_path):
    result = run("merge", "model.gmm", "model.gmm", "-o", "both.gmm")
    assert result.out.startswith("both.gmm: 2 components (full) of 3 features, 8,000 rows learned")
    assert result.out.endswith(" nats per row lost\n")
    merged = streamgmm.load(tmp_path / "both.gmm")
    own = streamgmm.load(files / "model.gmm")
    np.testing.assert_allclose(np.sort(merged.means_[:, 0]), np.sort(own.means_[:, 0]), rtol=1e-3)
    assert run("merge", "model.gmm", "-k", 1, "-o", "one.gmm", "-q") == Result(0, "", "")
    assert streamgmm.load(tmp_path / "one.gmm").n_components == 1


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
def test_labels_are_counted(run, files, suffix):
    model = streamgmm.load(files / "model.gmm")
    counts = np.bincount(model.predict(np.load(files / "data.npy")))
    result = run("predict", "model.gmm", "data.zarr", "-o", f"labels{suffix}")
    text = ", ".join(f"{count:,}" for count in counts)
    assert result.out == f"labels{suffix}: labels, 4,000; rows of each component: {text}\n"


def test_a_fit_ends_with_the_next_command(run, tmp_path):
    result = run("fit", "data.npy", "-k", 1, "-o", "m.gmm")
    speed, following = result.out.splitlines()[-2:]
    assert "passes over the data at" in speed and speed.endswith("rows/s")
    assert following.startswith("next: streamgmm predict ")
    words = following.split()[2:]
    assert run(*words).code == 0
    assert (tmp_path / "labels.npy").exists()


def test_a_model_is_selected(run, files, tmp_path):
    outputs = ["-o", "best.gmm", "--table", "t.csv", "--plot", "c.png"]
    result = run("select", "data.npy", "-k", "1:3", "--types", "diag", "--seed", 0, *outputs)
    assert result.code == 0
    header, first, *_ = result.out.splitlines()
    assert header.split() == ["covariances", "components", "bic", "above", "best", "status"]
    kind, k, _, above, status = first.split()
    assert (kind, above, status) == ("diag", "0.00", "complete")
    best = streamgmm.load(tmp_path / "best.gmm")
    assert best.n_components == int(k) == 2
    names, *rows = (tmp_path / "t.csv").read_text().splitlines()
    assert names.startswith("param_n_components,param_covariance_type,log_likelihood,")
    assert [row.split(",")[0] for row in rows] == ["1", "2", "3"]
    assert (tmp_path / "c.png").stat().st_size > 0
    words = ["--criterion", "held_out", "--held-out", "0.3", "--repeats", 2, "-o", "other.gmm"]
    result = run("select", "data.npy", "-k", "1:2", "--types", "diag", "--seed", 0, *words)
    assert result.out.splitlines()[0].split()[2:5] == ["held_out", "below", "best"]
    assert result.out.splitlines()[1].split()[:2] == ["diag", "2"]
    words = ["select", "data.npy", "-k", "2", "--types", "diag", "-o", "again.gmm", "--seed", 0]
    assert run(*words, "--checkpoint", "c").code == 0
    assert run(*words, "--checkpoint", "c", "--resume").code == 0
    assert "--resume needs --checkpoint" in run(*words, "--resume").err
    assert "give a range as in 1:12" in run("select", "data.npy", "-k", "a", "-o", "n.gmm").err
    assert "end in .csv" in run("select", "data.npy", "-o", "n.gmm", "--table", "t.txt").err


def test_kernels_are_compiled_ahead(run):
    result = run("warmup")
    assert result.code == 0
    assert re.fullmatch(rf"{re.escape(str(cache_folder()))}: kernels, \d+ s\n", result.out)


def test_samples_come_with_their_labels(run, files, tmp_path):
    words = ["sample", "model.gmm", "-n", 70_000, "--seed", 1, "--labels", "l.npy"]
    said = run(*words, "-o", "rows.npy")
    assert said.code == 0 and not said.err
    rows, labels = np.load(tmp_path / "rows.npy"), np.load(tmp_path / "l.npy")
    model = streamgmm.load(files / "model.gmm")
    assert rows.shape == (70_000, 3)
    counts = ", ".join(f"{count:,}" for count in np.bincount(labels))
    assert said.out == f"rows.npy: rows, 70,000 × 3; rows of each component: {counts}\n"
    for k in range(2):
        own = rows[labels == k]
        assert len(own) / len(rows) == pytest.approx(model.weights_[k], abs=0.01)
        np.testing.assert_allclose(own.mean(axis=0), model.means_[k], atol=0.1)
    assert run(*words, "-o", "again.zarr").code == 0
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "again.zarr", mode="r")[:], rows)


def test_info_is_for_people_and_machines(run, files):
    model = streamgmm.load(files / "model.gmm")
    text = run("info", "model.gmm").out
    assert "2 components (full) of 3 features" in text
    assert f"{model.weights_[0]:.4f}" in text
    assert f"iteration {model.n_iter_}" in text
    contents = json.loads(run("info", "model.gmm", "--json").out)
    assert contents["weights"] == model.weights_.tolist()
    assert contents["means"] == model.means_.tolist()
    assert contents["covariances"] == model.covariances_.tolist()
    assert contents["history"][0]["log_likelihood"] is None
    assert contents["n_reads"] == model.n_reads_


def test_info_of_a_stream(run, files, tmp_path):
    rows = np.load(files / "data.npy")
    model = OnlineGaussianMixture(2, half_life=500, random_state=0).fit(rows[:2000])
    model.partial_fit(rows[2000:]).save(tmp_path / "stream.gmm")
    text = run("info", "stream.gmm").out
    assert "2 components (full) of 3 features, 4,000 rows learned, no change detected" in text
    assert f"{model.weights_[0]:.4f}" in text
    contents = json.loads(run("info", "stream.gmm", "--json").out)
    assert contents["means"] == model.means_.tolist()
    assert contents["n_samples_seen"] == 4000
    assert contents["history"] == model.history_
    scored = run("score", "stream.gmm", "data.npy").out
    assert f"{model.score(rows):.6f}"[:8] in scored
    run("plot", "stream.gmm", "--convergence", "-o", "fit.png")
    assert (tmp_path / "fit.png").stat().st_size > 0


def test_parts_of_reads_are_rounded(files):
    model = streamgmm.load(files / "model.gmm")
    model.n_reads_ = 3.015625
    assert ", 3.02 passes" in summary(model)


def test_a_long_history_and_many_features_are_shortened(run, tmp_path):
    rows = np.random.default_rng(0).normal(size=(500, 33))
    with pytest.warns(UserWarning, match="converge"):
        model = GaussianMixture(
            1, covariance_type="diag", tol=0.0, max_iter=20, init_params="random", algorithm="em"
        )
        model.fit(rows)
    model.history_[-1]["accepted"] = False
    model.save("m.gmm")
    text = run("info", "m.gmm").out
    assert text.count("not accepted") == 1
    assert "iteration 20, not accepted" in text
    assert "last 10 of 21 passes over the data" in text
    assert "(3 more)" in text


def test_plots_are_written(run, files, tmp_path):
    assert run("plot", "model.gmm", "-o", "a.png") == Result(0, "a.png: picture, mixture\n", "")
    words = ["plot", "model.gmm", "--data", "data.zarr", "--features"]
    assert run(*words, "2,0", "-o", "b.svg").code == 0
    assert run(*words, "1", "-o", "c.pdf").code == 0
    assert run("plot", "model.gmm", "--convergence", "-o", "d.svg").code == 0
    entropy = "plot", "model.gmm", "--entropy", "-o", "e.svg"
    assert run(*entropy, "--data", "data.npy") == Result(0, "e.svg: picture, entropy\n", "")
    assert _listing(tmp_path) == {"a.png", "b.svg", "c.pdf", "d.svg", "e.svg"}


@pytest.mark.parametrize("kind", ["mixture", "pairs", "uncertainty", "fit", "entropy"])
def test_each_kind_of_picture_is_written(run, files, tmp_path, kind):
    words = ["plot", "model.gmm", "--data", "data.npy", "--kind", kind, "-o", "p.png"]
    assert run(*words) == Result(0, f"p.png: picture, {kind}\n", "")
    assert (tmp_path / "p.png").stat().st_size > 0


def test_features_of_a_picture_are_named(run, files, tmp_path):
    frame = pandas.DataFrame(np.load(files / "data.npy"), columns=["t", "q", "77"])
    frame.to_parquet("named.parquet")
    GaussianMixture(2, random_state=0).fit(frame).save("named.gmm")
    words = ["plot", "named.gmm", "--data", "named.parquet", "--columns", "t,q,77", "-o", "p.svg"]
    for kind in ("mixture", "pairs", "uncertainty", "fit"):
        # What is a name is no number.
        assert run(*words, "--kind", kind, "--features", "q,77").err == ""
        picture = (tmp_path / "p.svg").read_text()
        assert "<!-- q -->" in picture
        assert "<!-- 77 -->" in picture
        assert "<!-- t -->" not in picture
    assert run(*words, "--features", "2,t", "--contours").err == ""
    weighted = ["--sample-weight", "w.npy", "--kind", "fit"]
    np.save("w.npy", np.ones(len(frame)))
    assert run(*words, *weighted) == Result(0, "p.svg: picture, fit\n", "")


def test_without_matplotlib_a_plot_says_what_to_install(run, monkeypatch):
    monkeypatch.delitem(sys.modules, "streamgmm.plotting", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("plot", "model.gmm", "-o", "a.png")
    assert result.code == 2
    assert result.err == (
        "error: a picture needs matplotlib; install it with: pip install 'matplotlib>=3.10'\n"
    )
    result = run("demo", "--size", "1MB", "--memory-limit", "8GiB", "-q")
    assert result.code == 0
    assert "no picture without matplotlib; install it with: pip install" in result.out


def test_help_and_version(run):
    assert run().out == run("--help").out
    assert run("--version").out.strip() == f"streamgmm, version {streamgmm.__version__}"
    assert "..." not in run("--help").out.partition("Commands:")[2]


@pytest.mark.parametrize("command", sorted(cli.main.commands))
def test_a_help_page_is_80_columns_wide_and_ends_with_an_example(run, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    text = run(command, "--help").out
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(rf"\n  Examples?:\n  streamgmm {command}\b", text)


def test_many_options_have_headings(run):
    for command in ("fit", "select", "update", "score"):
        text = run(command, "--help").out
        assert "\nDescription of DATA:\n  --variables" in text
        shown = re.findall(r"^  (?:-\w, )?(--[a-z-]+)", text, re.M)
        options = [
            one for one in cli.main.commands[command].params if isinstance(one, click.Option)
        ]
        names = [next(name for name in one.opts if name.startswith("--")) for one in options]
        assert sorted(shown) == sorted([*names, "--help"])
    assert "\nInterrupted work:\n  --checkpoint " in run("fit", "--help").out
    assert run("warmup", "--help").out.count(":\n  ") == 2


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [40, 80])
def test_numbers_of_a_history_are_whole_on_a_narrow_terminal(monkeypatch, width):
    read = {
        "number": 123,
        "purpose": "refinement",
        "iteration": 122,
        "log_likelihood": -123456789.123456,
        "gain": -1.25e-12,
        "n_rows": 1_234_567_890_123,
        "seconds": 123456.25,
        "accepted": False,
    }
    monkeypatch.setenv("COLUMNS", str(width))
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    print_history(SimpleNamespace(history_=[read], n_reads_=1))
    for number in ("123", "-123456789.123456", "-1.25e-12", "1234567890123", "123456.25"):
        assert f" {number}" in terminal.getvalue()
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 82
    assert "…" not in terminal.getvalue()


# What is wrong is one line that says what and where


FIT = ("-k", 2, "-o", "m.gmm")
BAD = [
    (("fit", "missing.npy", *FIT), "missing.npy: no such file"),
    (("fit", "table.csv", *FIT), "table.csv is neither a .npy file nor a Zarr array"),
    (("fit", "no-array", *FIT), "no-array is neither a .npy file nor a Zarr array"),
    (("fit", "group.zarr", *FIT), "is a Zarr group, not an array; it holds inner (4, 2)"),
    (("fit", "empty.npy", *FIT), "empty.npy is not a .npy file"),
    (("fit", "objects.npy", *FIT), "objects.npy has dtype object"),
    (("fit", "complex.npy", *FIT), "complex.npy has dtype complex128"),
    (("fit", "vector.npy", *FIT), "vector.npy has shape (4000,)"),
    (("fit", "none.npy", *FIT), "none.npy has 0 sample(s)"),
    (("fit", "few.npy", "-k", 4, "-o", "m.gmm"), "--components = 4, rows = 3"),
    (("fit", "nan.npy", *FIT, "-q"), "2 value(s) in 2 of 4000 rows; the first: row 17 column 2"),
    (("fit", "data.npy", "-k", 2, "-o", "m.npz"), "m.npz: the output must end in .gmm"),
    (("fit", "data.npy", "-k", 2, "-o", "nowhere/m.gmm"), "nowhere/m.gmm cannot be written"),
    (("fit", "data.npy", "-k", 2, "-o", "folder.gmm"), "folder.gmm is a directory"),
    (("fit", "data.npy", "-k", 2), "Missing option '-o'"),
    (("fit", "data.npy", "-o", "m.gmm"), "Give the number of components, -k"),
    (("fit", "data.npy", "-k", 0, "-o", "m.gmm"), "0 is not in the range x>=1"),
    (("fit", "data.npy", *FIT, "--tol", -1), "'--tol': -1.0 is not in the range"),
    (("fit", "data.npy", *FIT, "--tol", "nan"), "--tol must be a float"),
    (("fit", "data.npy", *FIT, "-t", "round"), "'round' is not one of 'full', 'tied'"),
    (("fit", "data.npy", *FIT, "-j", 0), "--jobs is 0"),
    (("fit", "data.npy", *FIT, "--memory-limit", "much"), "--memory-limit is 'much'"),
    (("fit", "data.npy", *FIT, "--memory-limit", "1e999"), "--memory-limit is '1e999'"),
    (("fit", "data.npy", *FIT, "--memory-limit", "1MiB"), "cannot be read within --memory-limit"),
    (("fit", "data.npy", *FIT, "--fixed", "means"), "--fixed needs --start"),
    (("fit", "data.npy", *FIT, "--sample-weight", "few.npy"), "--sample-weight has shape (3, 3)"),
    (("fit", "data.npy", *FIT, "--sample-weight", "group.zarr"), "is a Zarr group, not an array"),
    (("fit", "data.npy", *FIT, "--sample-weight", "empty.npy"), "empty.npy is not a .npy file"),
    (("fit", "data.npy", *FIT, "--sample-weight", "table.csv"), "neither a .npy file nor a Zarr"),
    (("fit", "data.npy", *FIT, "--start", "junk.gmm"), "junk.gmm is damaged or no model file"),
    (("fit", "data.npy", "-k", 3, "--start", "model.gmm", "-o", "m.gmm"), "2 components, not 3"),
    (("fit", "data.npy", *FIT, "--start", "model.gmm", "-t", "diag"), "has full covariances"),
    (("fit", "two.npy", "--start", "model.gmm", "-o", "m.gmm"), "(2, 2), but got (2, 3)"),
    (("predict", "model.gmm", "two.npy", "-o", "l.npy"), "two.npy has 2 features"),
    (("predict", "model.gmm", "nan.npy", "-o", "l.npy"), "the first: row 17 column 2"),
    (("predict", "model.gmm", "data.npy", "-o", "l.csv"), "end in .npy or .zarr"),
    (("predict", "model.gmm", "data.npy", "-o", "data.npy"), "overlap; write somewhere else"),
    (("predict", "model.gmm", "data.zarr", "-o", "data.zarr"), "overlap; write somewhere else"),
    (("predict", "model.gmm", "data.npy", "-o", "group.zarr"), "will not be replaced"),
    (("predict", "missing.gmm", "data.npy", "-o", "file.zarr"), "file.zarr is a file, not a Zarr"),
    (("predict", "damaged.gmm", "data.npy", "-o", "l.npy"), "damaged.gmm is damaged"),
    (("predict", "data.npy", "data.npy", "-o", "l.npy"), "data.npy is damaged or no model"),
    (("score", "model.gmm", "data.npy", "--samples"), "--samples and -o belong together"),
    (
        ("score", "model.gmm", "data.npy", "--samples", "-o", "l.npy", "--sample-weight", "w.npy"),
        "--samples does not depend on --sample-weight",
    ),
    (("score", "model.gmm", "data.npy", "--sample-weight", "few.npy"), "--sample-weight has shape"),
    (("score", "model.gmm", "two.npy"), "two.npy has 2 features"),
    (("sample", "model.gmm", "-n", 0, "-o", "r.npy"), "0 is not in the range"),
    (("sample", "model.gmm", "-n", 9, "-o", "r.npy", "--labels", "r.npy"), "overlap"),
    (("info", "missing.gmm"), "missing.gmm: no such file"),
    (("plot", "model.gmm", "-o", "p.jpg"), "end in .png or .pdf or .svg"),
    (("plot", "model.gmm", "-o", "p.png", "--features", "0,3"), "numbers from 0 to 2"),
    (("plot", "model.gmm", "-o", "p.png", "--features", "a"), "features a are not columns of"),
    (("plot", "model.gmm", "-o", "p.png", "--features", "0,1,2"), "shows one or two"),
    (("plot", "model.gmm", "-o", "p.png", "--kind", "fit"), "--kind fit needs --data"),
    (("plot", "model.gmm", "-o", "p.png", "--kind", "pairs", "--contours"), "--kind mixture"),
    (("plot", "model.gmm", "-o", "p.png", "--kind", "pairs", "--entropy"), "has one kind"),
    (("plot", "model.gmm", "-o", "p.png", "--data", "two.npy"), "2 features"),
    (("plot", "model.gmm", "-o", "p.png", "--convergence", "--features", "0"), "shows no features"),
    (("plot", "model.gmm", "-o", "p.png", "--entropy"), "--kind entropy needs --data"),
    (("demo", "--size", "10"), "--size is 10 bytes; give 31.25 KiB or more"),
    (("demo", "--size", "9000TB"), "free, the array takes up to"),
    (("demo", "--size", "1MB", "--directory", "nowhere"), "there is no directory nowhere"),
    (("ponder",), "No such command 'ponder'"),
]


PRECIOUS = ("m.gmm", "l.npy", "r.npy", "p.png", "file.zarr")


@pytest.mark.parametrize(("words", "message"), BAD, ids=[f"{i}" for i in range(len(BAD))])
def test_bad_input_is_one_line_and_changes_nothing(run, files, tmp_path, words, message):
    (tmp_path / "folder.gmm").mkdir()
    for name in PRECIOUS:
        (tmp_path / name).write_text("precious")
    before, inputs = _listing(tmp_path), _listing(files)
    result = run(*words)
    assert result.code == 2
    assert result.out == ""
    assert message in result.err
    assert result.err.startswith("error: ")
    assert len(result.err.splitlines()) == 1
    assert _listing(tmp_path) == before
    assert _listing(files) == inputs
    for name in PRECIOUS:
        assert (tmp_path / name).read_text() == "precious"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc")
def test_a_folder_that_cannot_be_written_is_found_before_the_work(run, monkeypatch):
    def fit(*arguments, **settings):
        pytest.fail("fitted")

    monkeypatch.setattr(GaussianMixture, "fit", fit)
    result = run("fit", "data.npy", "-k", 2, "-o", "/proc/z.gmm")
    assert result.code == 2
    assert "error: /proc/z.gmm cannot be written: no file can be created in /proc" in result.err
    assert len(result.err.splitlines()) == 1


def test_memory_that_runs_out_is_one_line(run, monkeypatch):
    def fit(*arguments, **settings):
        raise MemoryError

    monkeypatch.setattr(GaussianMixture, "fit", fit)
    assert run("fit", "data.npy", *FIT) == Result(2, "", "error: out of memory\n")


def test_a_bug_is_not_dressed_up_as_bad_input(run, files, monkeypatch):
    def fit(*arguments, **settings):
        raise RuntimeError("a bug")

    monkeypatch.setattr(GaussianMixture, "fit", fit)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["fit", str(files / "data.npy"), "-k", "2", "-o", "m.gmm"])


# Real processes


def _start(*words: object, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PROGRAM, *map(str, words)],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from streamgmm.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'numba', 'scipy', 'sklearn', 'dask', 'zarr', 'matplotlib', 'rich'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_process_ends_with_code_and_line(files, tmp_path):
    with _start("fit", files / "nan.npy", *FIT, "-q", folder=tmp_path) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert _listing(tmp_path) == set()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_a_stopped_fit_leaves_the_old_model(files, tmp_path, number, code):
    shutil.copy(files / "model.gmm", tmp_path / "m.gmm")
    before = (tmp_path / "m.gmm").read_bytes()
    endless = ("--tol", 0, "--max-iter", 1_000_000)
    with _start("fit", files / "data.npy", *FIT, *endless, folder=tmp_path) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "iteration 3" in line:
                break
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err
    if number == signal.SIGINT:
        assert err.splitlines()[-1] == "interrupted"
    assert _listing(tmp_path) == {"m.gmm"}
    assert (tmp_path / "m.gmm").read_bytes() == before


_STOPPED_IN_A_DESTRUCTOR = """
import os, sys, time
from streamgmm.cli.program import Program

class Mortal:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        time.sleep(0)

program = Program()

@program.command()
def wait():
    Mortal()
    time.sleep(60)

program(["wait"])
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_comes_while_an_object_is_destroyed_stops_too(number, code):
    command = [sys.executable, "-c", _STOPPED_IN_A_DESTRUCTOR, str(int(number))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert result.returncode == code
    assert "ignored" not in result.stderr


def test_an_interrupted_fit_goes_on(files, tmp_path):
    endless = ("--tol", 0, "--max-iter", 1_000_000, "--algorithm", "em", "--checkpoint", "c")
    words = ("fit", files / "data.npy", *FIT, *endless)

    def interrupted(iteration: int, *more: str) -> list[str]:
        with _start(*words, *more, folder=tmp_path) as process:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line)
                if f"iteration {iteration}," in line:
                    break
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert err.splitlines()[-1] == (
            "interrupted; What the fit has found is kept in c; the same fit with --resume "
            "continues from there."
        )
        return lines

    first = interrupted(5)
    assert any("iteration 1," in line for line in first)
    assert streamgmm.load(tmp_path / "c" / "model.gmm").n_features_in_ == 3
    n_done = len(list((tmp_path / "c").glob("*.npz"))) - 2
    more = interrupted(n_done + 3, "--resume")
    # What the last read before was of is read no more.
    reads = [line for line in more if line.startswith("pass")]
    assert f"iteration {n_done + 1}," in reads[0]
    for wrong, message in (
        (words, "error: c holds the checkpoint of a fit"),
        (("fit", files / "data.npy", *FIT, "--resume"), "error: --resume needs --checkpoint"),
        (
            ("fit", files / "data.npy", *FIT, "--checkpoint-interval", "60"),
            "error: --checkpoint-interval needs --checkpoint",
        ),
    ):
        with _start(*wrong, folder=tmp_path) as process:
            _, err = process.communicate(timeout=60)
        assert process.returncode == 2
        assert err.splitlines()[-1].startswith(message)


def _interrupt_when(ready: Callable[[], bool], process: subprocess.Popen[str]) -> str:
    deadline = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, "ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    # A second one, of the impatient, must not disturb the tidying.
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    return process.communicate(timeout=60)[1]


def test_an_interrupted_prediction_leaves_the_old_one(tmp_path):
    random = np.random.default_rng(0)
    np.save(tmp_path / "large.npy", random.normal(size=(1_000_000, 16)).astype(np.float32))
    start = random.normal(size=(100, 16))
    model = GaussianMixture(100, means_init=start, max_iter=0, init_params="random_from_data")
    model.fit(random.normal(size=(1000, 16))).save(tmp_path / "model.gmm")
    (tmp_path / "p.npy").write_text("precious")
    before = _listing(tmp_path)
    words = ("predict", "model.gmm", "large.npy", "--proba", "-o", "p.npy", "-j", 1)
    with _start(*words, folder=tmp_path) as process:
        err = _interrupt_when((tmp_path / "p.npy.part" / "p.npy").exists, process)
    assert process.returncode == 130
    assert "interrupted" in err.splitlines()
    assert _listing(tmp_path) - {"p.npy.part"} == before
    assert (tmp_path / "p.npy").read_text() == "precious"


def test_an_interrupted_demo_leaves_nothing(tmp_path):
    words = ("demo", "--size", "1GB", "--directory", tmp_path, "-j", 1)
    with _start(*words, folder=tmp_path) as process:
        err = _interrupt_when(lambda: len(list(tmp_path.glob("*/*.part/*/c/*"))) > 1, process)
    assert process.returncode == 130
    assert err.split() == ["interrupted"]
    assert _listing(tmp_path) == set()


def test_the_demo_finds_what_it_planted(tmp_path):
    words = ("demo", "--size", "10MB", "--directory", tmp_path, "--keep")
    with _start(*words, folder=tmp_path) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert err.startswith("write, ")
    assert "peak memory of the process" in out
    assert "rows/s" in out
    assert _listing(tmp_path) == {"streamgmm-demo.png", "streamgmm-demo.zarr"}
    assert zarr.open_array(tmp_path / "streamgmm-demo.zarr", mode="r").shape == (312_500, 4)
    lines = [line.split() for line in out.splitlines()]
    planted = [[float(x) for x in line[2:]] for line in lines if line[1:2] == ["true"]]
    found = [[float(x) for x in line[1:]] for line in lines if line[:1] == ["fitted"]]
    assert len(planted) == 6
    np.testing.assert_allclose(found, planted, atol=0.05)


@pytest.mark.parametrize(
    ("text", "value"),
    [("auto", "auto"), ("1e-12", 1e-12), ("0", 0.0), ("1e-6,1e-12,1e-3", [1e-6, 1e-12, 1e-3])],
)
def test_what_is_added_to_variances(run, files, tmp_path, text, value):
    for command in (
        ("fit", "data.npy", "-k", 2, "-o", "m.gmm", "-q", "--seed", 0),
        ("update", "n.gmm", "data.npy", "-k", 2, "-q", "--seed", 0),
    ):
        assert run(*command, "--reg-covar", text) == Result(0, "", "")
    for name, estimator in (("m.gmm", GaussianMixture), ("n.gmm", OnlineGaussianMixture)):
        model = streamgmm.load(tmp_path / name)
        np.testing.assert_array_equal(model.reg_covar, value)
        expected = estimator(2, reg_covar=value, random_state=0).fit(np.load(files / "data.npy"))
        np.testing.assert_array_equal(model.reg_covar_, expected.reg_covar_)
        line = next(
            line for line in run("info", name).out.splitlines() if line.startswith("added to")
        )
        shown = (
            "0 1e-06, 1 1e-12, 2 0.001"
            if isinstance(value, list)
            else f"{expected.reg_covar_[0]:.4g}"
        )
        assert line == f"added to variances (reg_covar): {shown}"
        found = json.loads(run("info", name, "--json").out)
        assert found["reg_covar"] == model.reg_covar_.tolist()


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "1e-6,-1", "many", "1e-6,", ""])
@pytest.mark.parametrize("command", ["fit", "update"])
def test_wrong_numbers_to_be_added_are_refused(run, files, tmp_path, text, command):
    names = ["data.npy", "-o", "m.gmm"] if command == "fit" else ["m.gmm", "data.npy"]
    result = run(command, *names, "-k", 2, "--reg-covar", text)
    assert result.code == 2
    assert "--reg-covar" in result.err
    assert not (tmp_path / "m.gmm").exists()


def test_a_prior_is_chosen_by_name(run, files, tmp_path):
    fitted = run("fit", "data.npy", "-k", 2, "-o", "p.gmm", "--seed", 0, "--prior", "chen-tan")
    assert fitted.code == 0
    assert streamgmm.load("p.gmm").prior == "chen-tan"
    assert run("update", "o.gmm", "data.npy", "-k", 2, "--prior", "fraley-raftery").code == 0
    assert streamgmm.load("o.gmm").prior == "fraley-raftery"
    other = run("update", "o.gmm", "data.npy", "--batch-id", "b", "--prior", "chen-tan")
    assert other.code != 0
    assert "prior is 'fraley-raftery' and not 'chen-tan'" in other.err
