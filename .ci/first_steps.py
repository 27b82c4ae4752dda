"""Fit, save, load and predict with an installed package, in Python and on the command line."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import streamgmm

with TemporaryDirectory() as folder:
    rows, model, labels = (str(Path(folder) / name) for name in ("X.npy", "m.gmm", "y.npy"))
    X = np.random.default_rng(0).normal(size=(3000, 2)) + [[0, 0], [9, 9], [0, 9]] * 1000
    np.save(rows, X)
    fitted = streamgmm.GaussianMixture(3, random_state=0).fit(X)
    expected = fitted.predict(X)
    fitted.save(model)
    assert np.array_equal(streamgmm.load(model).predict(X), expected)

    def command(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "streamgmm", *arguments], check=True)

    command("fit", rows, "-k", "3", "--seed", "0", "-o", model)
    command("predict", model, rows, "-o", labels)
    found = np.load(labels)
    pairs = {(int(a), int(b)) for a, b in zip(expected, found, strict=True)}
    assert len(pairs) == 3, "the command finds other clusters than Python"
print(f"streamgmm {streamgmm.__version__} on Python {sys.version.split()[0]}: success")
