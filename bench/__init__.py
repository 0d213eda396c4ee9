"""Benchmarks and the demo: real commands, real files, ratios to a peer measured in the same run."""
