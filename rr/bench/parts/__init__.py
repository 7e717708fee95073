"""The parts of the benchmark. Each part is a module with a function `run(settings) -> PartResult`."""
