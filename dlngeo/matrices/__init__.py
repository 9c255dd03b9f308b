"""Downstairs: matrices ``X = U Σ Vᵀ`` with the metric of a kernel."""
