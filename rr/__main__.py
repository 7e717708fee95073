"""`python -m rr` is `rr`."""

from rr.cli import main

main()
