"""Runtime services that cannot change a result: atomic files, locks, status, progress, energy, signals."""
