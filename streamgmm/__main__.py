"""``python -m streamgmm``: the command line."""

from streamgmm.cli import main

main()
