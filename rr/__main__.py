"""Run the command line with `python -m rr`."""

from rr.cli import main

main()
