"""Benchmarks of the walks and of the range operations, with the machine's own limits: `python -m impl.fast.bench`."""
