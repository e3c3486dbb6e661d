"""Hessian-vector products of every operation and module in torch's own database of sample inputs.

``python -m tests.ad.opdb --help`` runs it, or a part of it, by hand.
"""
