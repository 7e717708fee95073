"""The parts of the benchmark, one module each with a function `run(settings) -> PartResult`."""
