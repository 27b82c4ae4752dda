"""A program of a user, as type checkers see it; ``tests/test_types.py`` reads what they reveal.

Without stubs mypy knows nothing of pandas and scikit-learn; pyright reads their code.
"""

from pathlib import Path
from typing import reveal_type

import numpy as np
import pandas as pd

import streamgmm
from streamgmm import GaussianMixture, GaussianMixtureSearch, KMeans, OnlineGaussianMixture

rows = np.random.default_rng(0).normal(size=(1000, 2))
frame = pd.DataFrame(rows, columns=["t", "q"])
out = Path("labels.npy")
gm = GaussianMixture(3, covariance_type="diag", random_state=0).fit(rows)

reveal_type(gm)  # GaussianMixture
reveal_type(gm.predict(rows))  # signedinteger
reveal_type(gm.predict(frame))  # Series, not for mypy
reveal_type(gm.predict("rows.zarr", out=out))  # Path
reveal_type(gm.predict("rows.zarr", out="labels.npy"))  # str
reveal_type(gm.predict_proba(rows))  # float64
reveal_type(gm.predict_proba(frame))  # DataFrame, not for mypy
reveal_type(gm.score_samples(rows))  # float64
reveal_type(gm.score_samples(frame))  # Series, not for mypy
reveal_type(gm.impute(frame))  # DataFrame, not for mypy
reveal_type(gm.impute("rows.zarr", out=out))  # Path
reveal_type(gm.fit_predict(rows))  # signedinteger
reveal_type(gm.fit_predict(frame))  # Series, not for mypy
reveal_type(gm.score(rows))  # float
reveal_type(gm.sample(10))  # tuple
reveal_type(gm.history_[0]["log_likelihood"])  # float
reveal_type(gm.history_[0]["purpose"])  # str
reveal_type(gm.summary())  # str
reveal_type(gm.to_sklearn())  # GaussianMixture, not for mypy

search = GaussianMixtureSearch([1, 2]).fit(rows)
reveal_type(search.predict(rows))  # signedinteger
reveal_type(search.predict_proba(frame))  # DataFrame, not for mypy
reveal_type(search.score_samples(rows))  # float64
reveal_type(search.history_[0]["n_rows"])  # int

km = KMeans(2).fit(rows)
reveal_type(km.predict(frame))  # Series, not for mypy
reveal_type(km.transform(frame))  # DataFrame, not for mypy
reveal_type(km.history_[0]["seconds"])  # float

stream = OnlineGaussianMixture(2).partial_fit(rows)
reveal_type(stream.predict(rows))  # signedinteger
reveal_type(stream.history_[0]["n_samples"])  # float
reveal_type(streamgmm.load("model.gmm"))  # GaussianMixture | OnlineGaussianMixture
reveal_type(GaussianMixture.load("model.gmm"))  # GaussianMixture
reveal_type(streamgmm.update("model.gmm", rows))  # OnlineGaussianMixture
reveal_type(streamgmm.open("rows.zarr").n_rows)  # int
