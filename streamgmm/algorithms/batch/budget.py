"""How much work in memory a fit may take, for its number of rows and the size of the mixture.

The unit is an evaluation: of all components, for one row. So sizes and numbers of steps depend on
the numbers of rows and components and on the structure, and on nothing of the machine.
"""

import math
from dataclasses import dataclass

# Evaluations for each row of the data. With 4 and with 8 some fits of many components that overlap
# ended 0.01 to 0.04 nats per row lower, depending on the random state.
_PER_ROW = 12.0
# Evaluations that small data may take, and multiplications that take a few seconds.
_FEWEST, _MULTIPLICATIONS = 1 << 22, 16e9
# Evaluations that small mixtures may take where they are quick. More work finds better optima.
_MORE, _FEWER_MULTIPLICATIONS = 1 << 23, 8e9
# Parts of the work: starts, and split and merge; the rest is for convergence on the sample.
_STARTING, _SPLITTING = 0.15, 0.4
# Starts that continue for each restart, and short runs from which each start is chosen. Which start
# is best shows only after splits and merges.
_STARTS = ((3, 2), (2, 1), (1, 1))
# Number of components from which on there is one start.
_MANY_COMPONENTS = 64
# Rows of a component, for each of its moments over D, from which several starts are made.
_ROWS_PER_RELATIVE_MOMENT = 20.0
# Steps of a short run, and of a start that continues; iterations of k-means, and the number of
# steps that take as long as k-means.
SHORT, LONGER = 4, 8
KMEANS_ITERATIONS = 16
_KMEANS_STEPS = 15
# Rows of starts: at least, for each component, for each of its moments over D, and at most for each
# parameter. With fewer rows of a component than a few times its columns, full covariances fit these
# rows and no others: images of 192 columns ended 11 nats per row lower.
_FEWEST_ROWS, _ROWS_PER_COMPONENT, _ROWS_PER_MOMENT = 4096, 16, 16.0
_ROWS_PER_PARAMETER = 20
# Largest numbers of rows of split and merge, as multiples of those of starts: of small data, and of
# large data.
_SPLITTING_ROWS = (2, 6)
# Evaluations in a round of splits and merges, and rounds that are planned.
_ROUND, _ROUNDS = 12, 4
# Evaluations of a row from which information is estimated; largest cost of information, in
# iterations.
_INFORMING, _LARGEST_INFORMING = 7.0, 2.0
# Rows of the sample that inform its own convergence, at least; for each parameter too.
_FEWEST_INFORMING, _INFORMING_PER_PARAMETER = 4096, 5
# Without information and splits convergence begins with a subsample: its part of the work, one row
# of how many of the sample it has, its fewest rows for a parameter, its most iterations.
_ON_SUBSAMPLE, _PART_OF_SAMPLE, _ROWS_OF_PARAMETER, _MOST_ON_SUBSAMPLE = 0.4, 4, 4, 250
# Iterations of convergence on the sample, at least and at most.
_FEWEST_ITERATIONS, _MOST_ITERATIONS = 4, 100


# Starts of a restart, at most, and their part of the work for each row of the data, where more rows
# would not make them better.
_MOST_STARTS, _MORE_STARTING = 8, 0.45


@dataclass(frozen=True)
class Starts:
    """The starts of a restart.

    Attributes
    ----------
    n_starts : int
        Starts that continue.
    n_runs : int
        Short runs of which each start is the best.
    n_rows : int
        Rows of both.
    """

    n_starts: int
    n_runs: int
    n_rows: int


@dataclass(frozen=True)
class Convergence:
    """The convergence on a sample.

    Attributes
    ----------
    n_iterations : int
        Largest number.
    n_informing : int
        Rows that inform steps; 0 if these would take most of the work.
    """

    n_iterations: int
    n_informing: int


@dataclass(frozen=True)
class Budget:
    """The work in memory of a fit to some data.

    Attributes
    ----------
    n_rows : int
        Rows of the data.
    n_components : int
    n_parameters : int
        Free parameters of the mixture.
    n_moments : int
        Moments of a component.
    n_features : int
        D.
    is_plain: bool
        Whether there is neither information nor splits and merges, so that all work but the starts
        is for convergence.
    """

    n_rows: int
    n_components: int
    n_parameters: int
    n_moments: int
    n_features: int
    is_plain: bool = False

    @property
    def n_evaluations(self) -> float:
        """Evaluations in all, for each restart."""
        n_values = self.n_components * self.n_moments
        return max(
            _PER_ROW * self.n_rows,
            min(_FEWEST, _MULTIPLICATIONS / n_values),
            min(_MORE, _FEWER_MULTIPLICATIONS / n_values),
        )

    @property
    def most_starting_rows(self) -> int:
        """Largest number of rows that starts use."""
        wanted = max(_FEWEST_ROWS, _ROWS_PER_PARAMETER * self.n_parameters)
        return max(wanted, self._fewest_rows)

    @property
    def _fewest_rows(self) -> int:
        of_moments = int(_ROWS_PER_MOMENT * self._relative_moments)
        return max(_FEWEST_ROWS, _ROWS_PER_COMPONENT * self.n_components, of_moments)

    @property
    def _relative_moments(self) -> float:
        """Moments of all components, over D."""
        return self.n_components * self.n_moments / self.n_features

    def starts(self, is_single: bool) -> Starts:
        """Return how many starts there are, and their rows.

        Parameters
        ----------
        is_single : bool
            Whether the rows are too few to choose among starts.
        """
        one = is_single or self.n_components == 1 or self.n_components >= _MANY_COMPONENTS
        most = self.most_starting_rows
        for n_starts, n_runs in _STARTS[-1:] if one else _STARTS:
            n_rows = int(_STARTING * self.n_evaluations / (n_starts * _steps(n_runs)))
            if n_rows >= _ROWS_PER_RELATIVE_MOMENT * self._relative_moments or n_starts == 1:
                break
        n_rows = min(max(n_rows, self._fewest_rows), most)
        if n_starts == _STARTS[0][0] and 2 * n_rows >= most:
            wanted = _MORE_STARTING * _PER_ROW * self.n_rows / (n_rows * _steps(n_runs))
            n_starts = min(max(int(wanted), n_starts), _MOST_STARTS)
        return Starts(n_starts, n_runs, n_rows)

    def splitting_rows(self, n_starts: int) -> int:
        """Return the number of rows with which some starts are split and merged."""
        steps = n_starts * (LONGER + _ROUND) + (_ROUNDS - 1) * _ROUND
        n_rows = int(_SPLITTING * self.n_evaluations / steps)
        most = self.most_starting_rows
        # Small data do not take longer for what large data can afford.
        affordable = int(_SPLITTING * _PER_ROW * self.n_rows / steps)
        most = min(max(_SPLITTING_ROWS[0] * most, affordable), _SPLITTING_ROWS[1] * most)
        return min(max(n_rows, self._fewest_rows), most)

    def splitting_evaluations(self, n_rows: int) -> float:
        """Return the evaluations of each of some rows that splits and merges may take."""
        return max(_SPLITTING * self.n_evaluations / max(n_rows, 1), LONGER + _ROUND)

    def subsample_rows(self, n_sample: int) -> int:
        """Return the number of rows with which convergence on a sample begins; 0 for all of them.

        Without information EM may take many iterations. Most of them can be with fewer rows.
        """
        n_rows = n_sample // _PART_OF_SAMPLE
        return n_rows if self.is_plain and n_rows >= _ROWS_OF_PARAMETER * self.n_parameters else 0

    def subsample_convergence(self, n_rows: int) -> Convergence:
        """Return the work of convergence on the rows of :meth:`subsample_rows`."""
        wanted = _ON_SUBSAMPLE * self.n_evaluations / n_rows
        return Convergence(min(math.floor(wanted), _MOST_ON_SUBSAMPLE), 0)

    def convergence(self, n_sample: int) -> Convergence:
        """Return the work of convergence on a sample."""
        n_informing = min(
            n_sample, max(_FEWEST_INFORMING, _INFORMING_PER_PARAMETER * self.n_parameters)
        )
        informing = _INFORMING * n_informing / max(n_sample, 1)
        if self.is_plain or informing > _LARGEST_INFORMING:
            n_informing, informing = 0, 0.0
        part = 1.0 - _STARTING - _SPLITTING
        if self.is_plain:
            part = 1.0 - _STARTING - (_ON_SUBSAMPLE if self.subsample_rows(n_sample) else 0.0)
        wanted = part * self.n_evaluations / (max(n_sample, 1) * (1.0 + informing))
        n_iterations = min(max(math.floor(wanted), _FEWEST_ITERATIONS), _MOST_ITERATIONS)
        return Convergence(n_iterations, n_informing)


def _steps(n_runs: int) -> int:
    """Return the evaluations of each row that a start takes which is the best of some runs."""
    return n_runs * (SHORT + _KMEANS_STEPS) + LONGER
