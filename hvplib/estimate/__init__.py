"""Traces, diagonals and functions of an operator from random products, each with its error."""
