"""Read and check the files that the runs wrote."""
