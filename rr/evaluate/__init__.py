"""The evaluation protocols. Each protocol is a module, and `rr.evaluate.stage` runs one of them."""
