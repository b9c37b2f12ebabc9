"""The PTX that Triton and nvcc emit, executed without a GPU: test tooling, no part of the package.

parser.py reads the text; values.py computes, exactly; steps.py has what each instruction does; machine.py runs a grid
of threads; memory.py checks every access; counters.py counts. on_ptx.py stands in for a Triton launch, compile.py has
the compilers. benchmarks/gpu_static.py runs every kernel here, for the table of what is executed.

What this proves: the text given to ptxas computes these bits and makes no access that it must not. What it cannot: that
ptxas and the device do what the text says, how approximate instructions round, orders of memory that need fences, and
any time. Warps run in one order of the many that a device may take; races are found by their missing barriers, not by
trying orders. Not known, and so an error: tensor cores, asynchronous copies, mbarriers, clusters, calls, textures.
"""
