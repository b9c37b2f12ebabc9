"""An interpreter of the PTX that Triton and nvcc emit, which runs kernels without a GPU. README.md says how to use it.

What it proves: the text that ptxas is given computes these bits and makes no access that it must not. What it cannot
prove: that ptxas and the device do what the text says, how approximate instructions round, orders of memory that need
fences, and any time. Warps run in one order of the many that a device may take; races are found by their missing
barriers, not by trying orders. Unknown, and so an error: tensor cores, asynchronous copies, mbarriers, clusters,
calls, textures.

The files, in the order in which to read them: parser (the text), values (bits and what they stand for), floats, integers and
alu (exact arithmetic), steps (what each instruction does), machine (a grid of threads), memory (every access is checked),
counters (what was executed and moved); compile (the compilers), on_ptx (in place of a Triton launch), on_cuda (as the CUDA
extension launches).
"""
