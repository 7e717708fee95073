"""The grid and its records, suites, and the commands `rr plan`, `rr verify` and `rr sync`."""
