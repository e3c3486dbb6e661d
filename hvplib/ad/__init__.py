"""Derivatives of functions of pytrees: products with the Hessian, and what proves them right."""
