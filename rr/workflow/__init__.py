"""The grid and its records, suites, and the `rr plan`, `rr verify` and `rr sync` commands."""
