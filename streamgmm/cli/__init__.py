"""The command line: a thin face over the estimators.

Results go to standard output, progress and warnings to standard error. Whatever is wrong with
the input is one line there and exit code 2. What takes long to import is imported by the
commands that need it. ``commands`` holds the commands, ``program`` what holds for all of them,
``describe`` what is said of a model, ``demo`` the demonstration.
"""

from streamgmm.cli.commands import main

__all__ = ["main"]
