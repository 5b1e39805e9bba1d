"""The built-in tasks of the benchmark, one file each."""
