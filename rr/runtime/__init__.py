"""Runtime services that cannot affect numbers in results: files, locks, status, progress, energy, text formats."""
