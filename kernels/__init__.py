"""Triton kernels, one file an operator; installed as ``fastscore.kernels``. philox.py: the numbers they share."""
