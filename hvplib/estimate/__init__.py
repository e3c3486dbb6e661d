"""Traces, diagonals and functions of an operator from random products, each with its error."""

from hvplib.estimate.diagonal import DiagonalEstimate, diagonal
from hvplib.estimate.effective_dimension import effective_dimension
from hvplib.estimate.methods import Exact, Hutchinson, HutchPP, XDiag, XNysTrace, XTrace
from hvplib.estimate.norms import frobenius_norm, schatten_norm
from hvplib.estimate.trace import trace

__all__ = [
    "DiagonalEstimate",
    "Exact",
    "HutchPP",
    "Hutchinson",
    "XDiag",
    "XNysTrace",
    "XTrace",
    "diagonal",
    "effective_dimension",
    "frobenius_norm",
    "schatten_norm",
    "trace",
]
