"""Convert backbones to and from the formats of other programs, and write metadata for weights, data and runs."""
