"""Tables and plots of results."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.machine import machine

RESULTS = Path(__file__).parent / "results"
_DOTS_PER_INCH = 100


@dataclass(frozen=True)
class Table:
    """A table of printed cells.

    Attributes
    ----------
    header : sequence of str
    rows : sequence of sequences of str
    caption : str
        A sentence above the table.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def __str__(self) -> str:
        lines = [self.caption, ""] if self.caption else []
        lines += ["| " + " | ".join(self.header) + " |", "|" + " --- |" * len(self.header)]
        return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in self.rows)])


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, with sizes in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def report(
    name: str, command: str, tables: Sequence[Table], save: bool, figure: Figure | None = None
) -> None:
    """Print Markdown tables; if ``save``, write them and the figure to ``results``."""
    text = "\n\n".join([f"`{command}`", machine(), *map(str, tables)])
    print(text)
    if not save:
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text + "\n")
    if figure is not None:
        figure.savefig(RESULTS / f"{name}.png", dpi=_DOTS_PER_INCH)
