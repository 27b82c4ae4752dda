"""
Anomalies in a folder of embeddings
===================================

Anomalies in a folder of embeddings: the rows that a mixture over 768 features fits least.

Run it in an empty folder: ``python embeddings_parquet.py``. It needs ``streamgmm[parquet,plot]``.
It writes ``embeddings`` (eight Parquet files, 125 MB), ``scores.npy``, ``labels.npy``
and ``anomalies.png``.

The embeddings are made up, but look like those of documents: vectors of 768 numbers and length 1,
in topics of unequal size, each of which varies along few directions only. Among 40,000 of them are
100 that something has gone wrong with, in five ways.
"""

import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from sklearn.pipeline import make_pipeline

import streamgmm
from streamgmm import GaussianMixture
from streamgmm.errors import FewRowsWarning
from streamgmm.preprocessing import PCA

N_FILES, FILE_ROWS, GROUP_ROWS = 8, 5_000, 1_250
N_FEATURES, N_DIRECTIONS, N_TOPICS = 768, 64, 12
N_EACH = 20

# All topics share 64 directions, some of which matter more than others; in each topic documents
# vary along all of them, but along some much more than along others.
random = np.random.default_rng(0)
directions = np.linalg.qr(random.normal(size=(N_FEATURES, N_DIRECTIONS)))[0]
directions *= np.arange(1, N_DIRECTIONS + 1) ** -0.4
common = 0.5 * random.normal(size=N_FEATURES) / np.sqrt(N_FEATURES)
centres = random.normal(0.0, 0.35, (N_TOPICS, N_DIRECTIONS))
spreads = 0.13 * random.gamma(2.0, 0.5, (N_TOPICS, N_DIRECTIONS))
# The rarest topic has more documents than features, too.
shares = 0.8 * random.dirichlet(np.full(N_TOPICS, 1.5)) + 0.2 / N_TOPICS


def to_length_1(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def embeddings_of(topics):
    """As a model would give them, not yet of length 1."""
    latent = centres[topics] + spreads[topics] * random.normal(size=(topics.size, N_DIRECTIONS))
    return common + latent @ directions.T + random.normal(0.0, 0.006, (topics.size, N_FEATURES))


def two_topics(rows):
    pairs = random.permuted(np.tile(np.arange(N_TOPICS), (len(rows), 1)), axis=1)
    return to_length_1(
        to_length_1(embeddings_of(pairs[:, 0])) + to_length_1(embeddings_of(pairs[:, 1]))
    )


# What may go wrong: each makes bad rows of good ones.
kinds = {
    "noise": lambda rows: to_length_1(random.normal(size=rows.shape)),
    "shifted by one": lambda rows: np.roll(rows, 1, axis=1),
    "second half 0": lambda rows: to_length_1(rows * (np.arange(N_FEATURES) < N_FEATURES // 2)),
    "length not 1": lambda rows: rows * random.uniform(1.5, 2.5, (len(rows), 1)),
    "two topics": two_topics,
}
chosen = random.choice(N_FILES * FILE_ROWS, len(kinds) * N_EACH, replace=False)
planted = dict(zip(kinds, chosen.reshape(len(kinds), N_EACH), strict=True))

folder = Path("embeddings")
folder.mkdir(exist_ok=True)
for number in range(N_FILES):
    start = number * FILE_ROWS
    rows = to_length_1(embeddings_of(random.choice(N_TOPICS, FILE_ROWS, p=shares)))
    for kind, spoil in kinds.items():
        here = planted[kind][planted[kind] // FILE_ROWS == number] - start
        rows[here] = spoil(rows[here])
    values = pa.array(rows.astype("float32").ravel())
    lists = pa.ListArray.from_arrays(np.arange(0, rows.size + 1, N_FEATURES, dtype="int32"), values)
    names = pa.array([f"document {i}" for i in range(start, start + FILE_ROWS)])
    pq.write_table(
        pa.table({"document": names, "embedding": lists}),
        folder / f"part-{number}.parquet",
        row_group_size=GROUP_ROWS,
    )

# From here on as with any folder. In 768 dimensions full covariances would have ninety parameters
# for each row; diagonal ones have two for each component and feature.
source = streamgmm.open(folder, columns=["embedding"])
model = GaussianMixture(N_TOPICS, covariance_type="diag", random_state=0).fit(source)
scores = np.load(model.score_samples(source, out="scores.npy"))
print(f"{source.n_rows} rows of {source.n_features} features, {round(model.n_reads_, 2)} reads")

# Rows are numbered through all files, in the order of their paths.
worst = np.argsort(scores)
files = sorted(folder.glob("*.parquet"))
ends = np.cumsum([pq.read_metadata(file).num_rows for file in files])
kind_of = {row: kind for kind, rows in planted.items() for row in rows}
print("every tenth of the hundred rows that fit least:")
for row in worst[:100:10]:
    file = np.searchsorted(ends, row, side="right")
    place = f"{files[file].name}, row {row - ends[file] + FILE_ROWS:4}"
    print(f"{scores[row]:8.0f} nats  {place}  {kind_of.get(row, 'nothing wrong')}")

is_planted = np.isin(worst, chosen)
for n in (50, 100, 200):
    found = is_planted[:n].sum()
    print(f"worst {n:3}: precision {found / n:.2f}, recall {found / chosen.size:.2f}")


# Two other mixtures of the same rows. Covariances of low rank have what columns share, too; with so
# few rows they have four parameters for each row, which is warned of, so scores of fitted rows
# flatter them. Full covariances of principal components do not see what lies beside their space.
def scores_of_low_rank():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewRowsWarning)
        # A few iterations of plain EM are enough for a ranking: densities span thousands of nats.
        settings = {"algorithm": "em", "tol": 1.0, "random_state": 0}
        other = GaussianMixture(N_TOPICS, covariance_type="low_rank", rank=16, **settings)
        return other.fit(source).score_samples(source, out="scores-low-rank.npy")


def scores_of_components():
    pipeline = make_pipeline(PCA(N_DIRECTIONS), GaussianMixture(N_TOPICS, random_state=0))
    projected = pipeline.fit(source)[:-1].transform(source)
    return pipeline[-1].score_samples(projected, out="scores-components.npy")


worst_of = {"diag": worst[:100]}
for name, others in {"low rank": scores_of_low_rank, "PCA, full": scores_of_components}.items():
    worst_of[name] = np.argsort(np.load(others()))[:100]
print(f"of {N_EACH}, among the worst 100:  {',  '.join(worst_of)}")
for kind, rows in planted.items():
    found = [str(np.isin(rows, ones).sum()) for ones in worst_of.values()]
    print(f"{kind:>25}:  {',  '.join(found)}")

# A map: the plane in which the topics, as the model has found them, lie farthest apart.
centre = model.weights_ @ model.means_
apart = np.sqrt(model.weights_)[:, np.newaxis] * (model.means_ - centre)
plane = np.linalg.svd(apart)[2][:2].T
tables = (pq.read_table(file, columns=["embedding"]) for file in files)
points = np.concatenate(
    [
        (table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, N_FEATURES) - centre)
        @ plane
        for table in tables
    ]
)
labels = np.load(model.predict(source, out="labels.npy"))
is_good = np.ones(len(points), dtype=bool)
is_good[chosen] = False

rank = np.empty(len(scores), dtype=int)
rank[worst] = np.arange(1, len(scores) + 1)
shortfall = scores.max() - scores

figure = Figure(figsize=(13.0, 7.0), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=(1.1, 1.0))
plan = left.subplots()
histogram, strip, ranks = right.subplots(3, 1, height_ratios=(1.5, 1.0, 1.8))
plan.scatter(*points[is_good].T, c=labels[is_good], cmap="Set3", s=2, alpha=0.6)
histogram.hist(shortfall[is_good], np.geomspace(100.0, shortfall.max(), 150), color="0.7")
for place, (kind, rows) in enumerate(planted.items()):
    style = {"color": f"C{place}", "marker": "os^Dv"[place], "linestyle": "", "markersize": 5}
    plan.plot(*points[rows].T, **style, markeredgecolor="black", markeredgewidth=0.5, label=kind)
    strip.plot(shortfall[rows], np.full(N_EACH, place), **style, alpha=0.6)
    ranks.step(np.sort(rank[rows]), np.arange(1, N_EACH + 1), color=f"C{place}", where="post")
plan.set_title("topics, seen where they lie farthest apart, and what is planted")
plan.set_axis_off()
plan.legend(frameon=False, loc="lower left")
for axes in (histogram, strip):
    axes.set(xscale="log", xlim=(100.0, 1.2 * shortfall.max()))
histogram.set(yscale="log", ylabel="rows, nothing wrong")
histogram.tick_params(which="both", labelbottom=False)
strip.set(xlabel="nats below the row that fits best", ylim=(len(kinds) - 0.5, -0.5))
strip.set_yticks(range(len(kinds)), kinds)
ranks.set(xscale="log", xlim=(0.8, 2e3), ylim=(0, N_EACH + 0.5), yticks=range(0, N_EACH + 1, 5))
ranks.set(xlabel="rows looked at, worst first", ylabel="found of each kind")
ranks.axvline(chosen.size, color="0.6", linestyle="--", linewidth=1.0)
ranks.annotate(" as many as are planted", (chosen.size, 1), color="0.4")
figure.savefig("anomalies.png", dpi=100)
