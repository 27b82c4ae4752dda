"""A package that is not installed is named with the line that installs it, at every entrance."""

import json
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet
import pytest
import xarray
import zarr
from packaging.requirements import Requirement

from streamgmm import GaussianMixture, OnlineGaussianMixture

PYPROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]


def installation_of(extra: str) -> str:
    """Return the command that installs what an extra installs."""
    requirements = sorted(str(Requirement(requirement)) for requirement in EXTRAS[extra])
    return "pip install " + " ".join(f"'{requirement}'" for requirement in requirements)


HDF5, PARQUET, PLOT, REMOTE, XARRAY = map(
    installation_of, ("hdf5", "parquet", "plot", "remote", "xarray")
)
# Packages that are blocked, Python that needs them, the package that is named, and the line.
CASES: list[tuple[list[str], str, str, str]] = [
    (["h5py"], "open('x.h5')", "h5py", HDF5),
    (["pyarrow"], "open('x.parquet')", "pyarrow", PARQUET),
    (["xarray"], "open('x.nc', variables=['a'])", "xarray", XARRAY),
    (["h5netcdf"], "open('x.nc', variables=['a'])", "h5netcdf", XARRAY),
    (["xarray"], "open('x.zarr', feature_dim='x')", "xarray", XARRAY),
    (["matplotlib"], "import streamgmm.plotting", "matplotlib", PLOT),
    (["gcsfs"], "open('gs://b/x.npy')", "gcsfs", "pip install gcsfs"),
    (["adlfs"], "open('abfs://b/x.npy')", "adlfs", "pip install adlfs"),
    (["s3fs"], "open('s3://b/x.npy')", "s3fs", "pip install s3fs"),
    (["s3fs"], "open('s3://b/x.zarr')", "s3fs", "pip install s3fs"),
    (["s3fs"], "open('s3://b/x.parquet')", "s3fs", "pip install s3fs"),
    (["s3fs"], "open('s3://b/x.h5')", "s3fs", "pip install s3fs"),
    (["s3fs"], "open('x.npy', sample_weight='s3://b/w.npy')", "s3fs", "pip install s3fs"),
    (["s3fs"], "update('o.gmm', 's3://b/x.npy')", "s3fs", "pip install s3fs"),
    (
        ["s3fs"],
        "GaussianMixture(checkpoint='s3://b/c').fit('x.npy')",
        "s3fs",
        "pip install s3fs",
    ),
    (["aiohttp"], "GaussianMixture(checkpoint='s3://b/c').fit('x.npy')", "aiohttp", REMOTE),
    *(
        ([package], f"open('{protocol}://b/x.{suffix}')", package, REMOTE)
        for package in ("aiohttp", "tenacity")
        for protocol in ("s3", "https")
        for suffix in ("npy", "zarr", "h5", "parquet")
    ),
    (["aiohttp"], "open('x.npy', sample_weight='s3://b/w.npy')", "aiohttp", REMOTE),
    (["aiohttp"], "open('x.npy', sample_weight='s3://b/w.zarr')", "aiohttp", REMOTE),
    (["aiohttp"], "update('o.gmm', 's3://b/x.npy')", "aiohttp", REMOTE),
    (["aiohttp"], "load('m.gmm').predict('s3://b/x.zarr', out='l.npy')", "aiohttp", REMOTE),
    (["hdf5plugin"], "open('filtered.h5')", "hdf5plugin", "pip install hdf5plugin"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of each kind, and models."""
    folder = tmp_path_factory.mktemp("data")
    rows = np.random.default_rng(0).normal(size=(60, 2))
    np.save(folder / "x.npy", rows)
    with h5py.File(folder / "x.h5", "w") as file:
        file["x"] = rows
    with h5py.File(folder / "filtered.h5", "w") as file:
        settings = {"compression": 32004, "allow_unknown_filter": True}
        file.create_dataset("x", shape=(60, 2), dtype="f8", chunks=(60, 2), **settings)
    pyarrow.parquet.write_table(pyarrow.table({"a": rows[:, 0]}), folder / "x.parquet")
    xarray.Dataset({"a": ("t", rows[:, 0])}).to_netcdf(folder / "x.nc", engine="h5netcdf")
    zarr.create_array(folder / "x.zarr", data=rows, dimension_names=["t", "x"])
    GaussianMixture(2, random_state=0).fit(rows).save(folder / "m.gmm")
    OnlineGaussianMixture(2).partial_fit(rows).save(folder / "o.gmm")
    return folder


COMMANDS: list[tuple[str, list[str], str]] = [
    ("aiohttp", ["fit", "s3://b/x.npy", "-k", "2", "-o", "n.gmm"], REMOTE),
    (
        "aiohttp",
        ["fit", "x.npy", "-k", "2", "-o", "n.gmm", "--sample-weight", "s3://b/w.npy"],
        REMOTE,
    ),
    ("s3fs", ["plot", "m.gmm", "-o", "p.png", "--data", "s3://b/x.parquet"], "pip install s3fs"),
    ("matplotlib", ["plot", "m.gmm", "-o", "p.png"], PLOT),
    ("pyarrow", ["score", "m.gmm", "x.parquet"], PARQUET),
]
# Forks begin with all that the package itself loads, which takes seconds.
SCRIPT = """
import json, os, sys
import streamgmm
from streamgmm import GaussianMixture, errors, load, open, update
from streamgmm.cli import main

def ask(request):
    try:
        exec(request)
    except errors.StreamGMMError as error:
        print(type(error).__name__, isinstance(error, ImportError), error)
    except BaseException as error:
        print("not ours:", repr(error))
    else:
        print("no error:", request)

def end_without(package, request):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]
    sys.modules[package] = None
    if isinstance(request, list):
        main(request)
    for line in request.splitlines():
        ask(line)
    sys.exit(0)

for package, request in json.loads(sys.argv[1]):
    sys.stdout.flush()
    if not (child := os.fork()):
        os.dup2(1, 2)
        end_without(package, request)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("exit code", code)
"""


def answers(requests: list[tuple[str, str | list[str]]], folder: Path) -> list[list[str]]:
    """Lines that each request prints in a process in which a package cannot be imported.

    A request is lines of Python, or words of a command line. Its exit code is the last line.
    """
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(requests)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[list[str]] = [[]]
    for line in ended.stdout.splitlines():
        found[-1].append(line)
        if line.startswith("exit code"):
            found.append([])
    return found[:-1]


def test_a_missing_package_is_named_with_what_installs_it(folder: Path) -> None:
    packages = sorted({blocked[0] for blocked, *_ in CASES})
    cases = [[case for case in CASES if case[0] == [package]] for package in packages]
    requests = ["\n".join(request for _, request, *_ in own) for own in cases]
    found = answers(list(zip(packages, requests, strict=True)), folder)
    for (*lines, code), own in zip(found, cases, strict=True):
        assert code == "exit code 0"
        for line, (_, request, named, command) in zip(lines, own, strict=True):
            assert line.startswith("MissingPackageError True "), (request, line)
            assert f" needs {named}; install it with: {command}" in line, (request, line)


def test_the_command_line_says_the_same(folder: Path) -> None:
    found = answers([(package, words) for package, words, _ in COMMANDS], folder)
    for (line, code), (package, _, named) in zip(found, COMMANDS, strict=True):
        assert code == "exit code 2"
        assert line.startswith("error: ")
        assert f"needs {package}; install it with: {named}" in line


def test_the_lines_that_install_extras_can_be_run() -> None:
    """All packages are installed here, so pip agrees with each line without a network."""
    for line in (HDF5, PARQUET, PLOT, REMOTE, XARRAY):
        command = [sys.executable, "-m", *shlex.split(line), "--no-index", "--dry-run"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        assert "Would install" not in ended.stdout
