"""What the project claims of its speed, each case measured beside its peers in the same run.

`python -m benchmarks` runs the cases under pytest-benchmark, prints the ratios and writes `docs/benchmarks.md`.
"""
