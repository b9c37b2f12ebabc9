"""Triton kernels, one file an operator; installed as ``fastscore.kernels``. None yet: see CHANGELOG.md."""
