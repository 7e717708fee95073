"""Evaluation protocols: one module each, run by the stage in `rr.evaluate.stage`."""
