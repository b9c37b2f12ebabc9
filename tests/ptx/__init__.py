"""The PTX interpreter in kernels/ptx, and the project's kernels executed by it."""
