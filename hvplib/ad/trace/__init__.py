"""Derivatives recorded once, operation by operation, and run again as straight-line programs."""
