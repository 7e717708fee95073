"""Runtime services that cannot affect results: atomic files, locks, status, progress, energy, signals."""
