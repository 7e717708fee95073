"""Read the files of the runs and check them."""
