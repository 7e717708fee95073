"""Convert backbones from and to the formats of other programs, and write metadata for weights, data and runs."""
