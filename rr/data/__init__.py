"""Datasets: the sources of images, the raw format, betons, and the data loader."""
