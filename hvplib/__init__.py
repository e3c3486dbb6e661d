"""Hessian-vector products and matrix-free linear algebra for PyTorch and SciPy."""
