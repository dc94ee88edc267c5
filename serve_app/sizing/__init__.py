"""Computes what a configuration takes in memory, cores and GPUs, and whether that fits (`phi-serve plan`).."""
