"""What is told of reads: lines, a bar, or nothing."""

import io
import logging
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from streamgmm import GaussianMixture, KMeans
from streamgmm.algorithms.reads.reader import announced
from streamgmm.events import (
    ChunkDone,
    ComponentsDegenerate,
    Event,
    FitStarted,
    KernelCompiling,
    ReadDone,
    ReadStarted,
    RoundDone,
    SampleStage,
    SampleStep,
    StageStarted,
    StartBegun,
    StartDone,
    StepScored,
    SurveyDone,
)
from streamgmm.progress import (
    LineReporter,
    Pace,
    ProgressBar,
    describe_rates,
    describe_seconds,
    reporting,
)
from streamgmm.sinks import ArraySink
from streamgmm.sources.array import ArraySource


def _read(number: int, iteration: int, log_likelihood: float, gain: float) -> list[Event]:
    purpose = "iteration" if iteration else "sample"
    return [
        ReadStarted(number, purpose, 2000, 2, 64_000),
        ChunkDone(1000, 32_000),
        ChunkDone(1000, 32_000),
        ReadDone(number, purpose, 2000, 0.5, iteration, log_likelihood, gain, 0, 0),
    ]


FIT = [
    *_read(1, 0, math.nan, math.nan),
    *_read(2, 1, -3.5, math.inf),
    *_read(3, 2, -3.25, 0.25),
    ComponentsDegenerate(3, (1,), (4, 5)),
    *_read(4, 3, -3.125, 0.125),
]


SURVEY = SurveyDone(
    n_rows=1_000_000,
    n_overflowing=0,
    n_missing=0,
    n_weightless=0,
    n_sampled=125_000,
    n_unexplained=1956,
    shortfall=2.5e-3,
    feature_names=["t", "q"],
    smallest=np.array([0.0, -1.0]),
    largest=np.array([1.0, 2.0]),
    means=np.array([0.5, 0.0]),
    deviations=np.array([0.1, 1.0]),
)

# What a survey is followed by.
SAMPLE = [
    SURVEY,
    SampleStage("starts", 4096, 300_000, -13.51, 0.25),
    SampleStage("EM", 125_000, 4_200_000, -13.125, 1.5),
]


def _lines(every: int = 1, events: Sequence[Event] = FIT) -> list[str]:
    stream = io.StringIO()
    reporter = LineReporter(every=every, stream=stream)
    for event in events:
        reporter(event)
    return stream.getvalue().splitlines()


def test_a_read_is_a_line():
    assert _lines() == [
        "pass 1, sample, 4 krows/s 128 kB/s, 0.50 s",
        "pass 2, iteration 1, log-likelihood -3.500000, 4 krows/s 128 kB/s, 0.50 s",
        "pass 3, iteration 2, log-likelihood -3.250000 (+2.5e-01), 4 krows/s 128 kB/s, 0.50 s",
        "pass 3, components without mass: 1; collapsed and widened: 4, 5",
        "pass 4, iteration 3, log-likelihood -3.125000 (+1.2e-01), 4 krows/s 128 kB/s, 0.50 s",
    ]


def test_work_in_memory_is_a_line_a_stage():
    assert _lines(events=SAMPLE) == [
        "1,000,000 rows surveyed; sample of 125,000, 1,956 of rare kinds; "
        "expected loss from sampling 2.5e-03 nats per row",
        "sample, starts: log-likelihood -13.510000, 300 krows computed, 0.25 s",
        "sample, EM: log-likelihood -13.125000, 4.2 Mrows computed, 1.50 s",
    ]


def test_a_survey_is_a_line():
    small = replace(SURVEY, n_rows=3000, n_sampled=3000, n_unexplained=0, shortfall=0.0)
    assert _lines(events=[small]) == ["3,000 rows surveyed; sample of 3,000"]
    lacking = replace(small, n_overflowing=2, n_missing=1200, n_weightless=3, n_sampled=1795)
    assert _lines(events=[lacking]) == [
        "3,000 rows surveyed, 1,205 row(s) skipped: 2 whose squares overflow, "
        "1,200 for lack of values, 3 of weight 0; sample of 1,795"
    ]
    constant = replace(small, largest=np.array([0.0, 2.0]))
    line = "3,000 rows surveyed; sample of 3,000; the same value in all rows: column(s) t"
    assert _lines(events=[constant]) == [line]
    many = replace(small, feature_names=list("abcdefg"), smallest=np.zeros(7), largest=np.zeros(7))
    assert _lines(events=[many])[0].endswith("column(s) a, b, c, d, e, ...")
    console = Console(file=io.StringIO(), force_terminal=True, width=200, color_system=None)
    with ProgressBar(console) as bar:
        bar(constant)
    assert line in console.file.getvalue()


def test_a_read_that_was_not_accepted_says_so():
    *_, read = _read(5, 4, -3.5, -0.375)
    assert isinstance(read, ReadDone)
    (line,) = _lines(events=[replace(read, accepted=False)])
    assert line.startswith("pass 5, iteration 4, log-likelihood -3.500000 (-3.8e-01), ")
    assert line.endswith(", not accepted")


SIZE = FitStarted(2_000_000_000_000, 32, 1000, 560_999, 256_000_000_000_000, 40_000_000, 4 * 10**15)


def test_a_fit_begins_with_what_it_takes():
    line = (
        "2,000,000,000,000 rows of 32 features, 1000 components, 560,999 parameters; "
        "256 TB and 4 Pflop per pass, 40 MB per thread"
    )
    stream = io.StringIO()
    LineReporter(stream=stream)(SIZE)
    assert stream.getvalue() == f"{line}\n"
    console = Console(file=io.StringIO(), force_terminal=True, width=200, color_system=None)
    with ProgressBar(console) as bar:
        bar(SIZE)
    assert line in console.file.getvalue()


def test_iterations_between_lines():
    assert [line[:6] for line in _lines(every=2)] == ["pass 1", "pass 2", "pass 3", "pass 4"]
    assert "iteration 2" not in "\n".join(_lines(every=2))


@pytest.mark.parametrize("width", [80, 120])
def test_a_bar_shows_the_read_its_rates_and_the_gain(width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    with ProgressBar(console) as bar:
        for event in FIT[:-1]:
            bar(event)
        bar._progress.refresh()
        last = console.file.getvalue().rstrip().split("\r")[-1]
        shown = console.file.getvalue()
    assert "pass 4" in last
    assert "100%" in last
    assert "rows/s" in last
    assert "B/s" in last
    assert "log-likelihood -3.250000 (+2.5e-01)" in last
    assert "components without mass: 1" in shown


def test_a_bar_names_the_work_in_memory():
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    shown = []
    with ProgressBar(console) as bar:
        for event in [*FIT[:4], *SAMPLE, *FIT[4:8]]:
            bar(event)
            bar._progress.refresh()
            shown.append(console.file.getvalue().rstrip().split("\r")[-1])
    taken, starts, converged, begun = shown[4:8]
    assert "sample of 125,000 rows" in taken
    assert "rows/s" not in taken
    assert "sample, starts" in starts
    assert "log-likelihood -13.510000" in starts
    assert "sample, EM" in converged
    assert "pass 2" in begun
    assert "  0%" in begun


def test_a_terminal_gets_a_bar_a_file_lines_and_quiet_nothing(monkeypatch, capsys):
    with reporting() as listener:
        assert isinstance(listener, LineReporter)
    with reporting(quiet=True) as listener:
        for event in FIT:
            listener(event)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", Terminal())
    with reporting() as listener:
        assert isinstance(listener, ProgressBar)
    monkeypatch.setenv("TERM", "dumb")
    with reporting() as listener:
        assert isinstance(listener, LineReporter)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_reads_outside_a_fit_have_no_number(capsys):
    with (
        reporting() as listener,
        announced(listener, "predict", ArraySource(np.ones((10, 2))), ArraySink(None)),
    ):
        listener(ChunkDone(10, 160))
    line = capsys.readouterr().err
    assert line.startswith("predict, ")
    assert len(line.splitlines()) == 1


def test_rates_have_prefixes():
    assert describe_rates(3_210_000, 25_680_000_000, 1.0) == "3.21 Mrows/s 25.7 GB/s"
    assert describe_rates(5, 40, 1.0) == "5 rows/s 40 B/s"
    assert describe_rates(0, 0, 0.0) == "0 rows/s 0 B/s"


# The work in memory, in detail.
DETAILS = [
    StageStarted("starts", 4096, 8),
    StartBegun(1, 6),
    SampleStep("starts", 1, -14.5),
    StartDone(1, 6, -14.25),
    RoundDone(2, 3, -14.125),
    StartDone(2, 9, inertia=12.5),
]


def test_details_get_lines_only_after_a_while():
    assert _lines(events=DETAILS) == []
    stream = io.StringIO()
    reporter = LineReporter(stream=stream, patience=0.0)
    for event in DETAILS:
        reporter(event)
    assert stream.getvalue().splitlines() == [
        "sample, starts on 4,096 rows begins",
        "sample, start 1 of 6 begins",
        "sample, starts, iteration 1, log-likelihood -14.500000",
        "sample, start 1 of 6, log-likelihood -14.250000",
        "sample, round 2, log-likelihood -14.125000",
        "sample, start 2 of 9, inertia 12.5",
    ]


def test_a_bar_names_starts_rounds_and_kernels():
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    shown = []
    with ProgressBar(console) as bar:
        for event in [*DETAILS, KernelCompiling("e_step", "float64", True)]:
            bar(event)
            bar._progress.refresh()
            shown.append(console.file.getvalue().rstrip().split("\r")[-1])
    assert "sample, starts on 4,096 rows" in shown[0]
    assert "sample, start 1 of 6" in shown[2]
    assert "log-likelihood -14.500000" in shown[2]
    assert "sample, round 2" in shown[4]
    assert "compiling kernels, once per machine" in shown[6]
    assert all(line.lstrip("\x1b[2K").startswith("0 s") for line in shown)


def test_kernels_being_compiled_are_one_line():
    kernels = [KernelCompiling(name, "float32", True) for name in ("e_step", "posterior")]
    assert _lines(events=kernels) == ["compiling kernels, once per machine"]
    unkept = [KernelCompiling("e_step", "float32", False)]
    assert _lines(events=unkept) == ["compiling kernels, again, as no folder can keep them"]


def test_the_passes_that_are_left_are_predicted_from_what_remains():
    pace = Pace()
    assert pace.n_passes is None
    pace(replace(SIZE, tol=1e-6, max_iter=100))
    for number, remaining in enumerate((1e-2, 1e-3), start=1):
        pace(ReadDone(number, "iteration", 10, 0.1, number, -1.0, 0.1))
        pace(StepScored(10, remaining))
    # Each pass leaves a tenth.
    assert pace.n_passes == 3
    # Of plain EM the gains fall likewise.
    pace(replace(SIZE, tol=1e-6, max_iter=10))
    for iteration, gain in enumerate((math.inf, 4e-3, 2e-3), start=1):
        pace(ReadDone(iteration, "iteration", 10, 0.1, iteration, -1.0, gain))
    assert pace.n_passes == 7
    pace(replace(SIZE, max_iter=10))
    assert pace.n_passes is None


def test_lines_of_a_fit_tell_the_elapsed_time_and_the_passes_left():
    events = [replace(SIZE, tol=1e-6, max_iter=100), *FIT]
    assert _lines(events=events)[2].endswith("0.50 s; 0 s elapsed")
    assert _lines(events=events)[-1].endswith("0.50 s; 0 s elapsed, about 17 passes left")
    assert describe_seconds(61.9) == "1:01 min"
    assert describe_seconds(3723) == "1:02:03"


@pytest.mark.parametrize("is_clusters", [False, True])
def test_a_search_in_memory_reports_all_the_time(is_clusters):
    rng = np.random.default_rng(0)
    rows = (
        rng.normal(size=(20_000, 16)) + 3 * rng.normal(size=(300, 16))[rng.integers(0, 300, 20_000)]
    )
    events: list[Event] = []
    if is_clusters:
        KMeans(60, random_state=0, callbacks=events.append).fit(rows)
    else:
        settings = {"covariance_type": "diag", "random_state": 0, "tol": 1e-2}
        GaussianMixture(300, callbacks=events.append, **settings).fit(rows)
    ends = [event for event in events if isinstance(event, StartDone)]
    begins = [event for event in events if isinstance(event, StartBegun)]
    numbers = [event.number for event in ends]
    assert numbers == [event.number for event in begins] == list(range(1, ends[0].n_starts + 1))
    so_far = [-event.inertia if is_clusters else event.log_likelihood for event in ends]
    assert so_far == sorted(so_far)
    rounds = [event for event in events if isinstance(event, RoundDone)]
    assert rounds[0].number == 1
    # Between two events there are at most the seeds of a start, or a pass over rows in memory.
    assert sum(isinstance(event, SampleStep) for event in events) > 10 * len(ends)
    if not is_clusters:
        # No step visits more rows than its stage has, but for products with their information.
        stages = {event.name: event for event in events if isinstance(event, SampleStage)}
        steps = Counter(event.stage for event in events if isinstance(event, SampleStep))
        assert all(
            stage.n_row_visits <= 8 * steps[name] * stage.n_rows for name, stage in stages.items()
        )


def test_a_silent_fit_is_in_the_log(caplog):
    rows = np.random.default_rng(0).normal(size=(5000, 2)) + [[-4.0], [4.0]] * 2500
    model = GaussianMixture(3, random_state=1)
    with caplog.at_level(logging.INFO, "streamgmm"):
        model.fit(rows)
    lines = [record.getMessage() for record in caplog.records if record.name == "streamgmm"]
    assert sum(line.startswith("pass ") for line in lines) == model.n_reads_
    assert {record.levelname for record in caplog.records} == {"INFO"}
    caplog.clear()
    with caplog.at_level(logging.DEBUG, "streamgmm"):
        model.fit(rows)
    details = [record.getMessage() for record in caplog.records if record.levelname == "DEBUG"]
    assert "sample, start 2 of 6 begins" in details
    assert any(line.startswith("sample, round 1, log-likelihood") for line in details)


def test_a_kernel_is_announced_where_it_is_compiled(tmp_path):
    """Only once, and not where the folder holds it."""
    script = tmp_path / "kernels.py"
    script.write_text(
        "import numpy as np\n"
        "from streamgmm.core.kernels.compilation import kernel, watched\n"
        "@kernel\n"
        "def total(rows):\n"
        "    return rows.sum()\n"
        "told = []\n"
        "with watched(lambda *event: told.append(event)):\n"
        "    total(np.ones((3, 2)))\n"
        "    total(np.ones((3, 2)))\n"
        "total(np.ones((3, 2), dtype=np.float32))\n"
        "print(told)\n"
    )

    def announced_kernels() -> str:
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        return subprocess.check_output([sys.executable, script], env=environment, text=True)

    assert announced_kernels() == "[('total', 'float64', True)]\n"
    assert announced_kernels() == "[]\n"
