"""Traces, diagonals and functions of an operator from random products, each with its error."""

from hvplib.estimate.methods import Exact, Hutchinson, HutchPP, XDiag, XNysTrace, XTrace
from hvplib.estimate.trace import trace

__all__ = ["Exact", "HutchPP", "Hutchinson", "XDiag", "XNysTrace", "XTrace", "trace"]
