"""Evaluation protocols, one module each; `rr.evaluate.stage` runs them."""
