"""Devices, threads, processes and batch norm: shared code that can change the results of a stage."""
