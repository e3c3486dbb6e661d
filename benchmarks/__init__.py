"""Benchmarks: one script per claim, each printing a table of medians measured side by side."""
