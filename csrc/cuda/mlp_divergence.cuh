// The sum over hidden units that an MLP's divergence is, on CUDA: one block per sample.
#pragma once

#include <cub/block/block_reduce.cuh>

#include "../activation.h"
#include "probes.cuh"

namespace fastscore {

// out_b = sum_h phi'(a_bh) w_h, or w_bh where `many`.
template <class C, Activation A>
__global__ void __launch_bounds__(kThreads) slope_dot(const C* a, const C* w, bool many, int64_t width, C* out) {
  using Reduce = cub::BlockReduce<double, kThreads>;
  __shared__ typename Reduce::TempStorage storage;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * width;
  C sum = 0;
#pragma unroll 1  // four exponentials of float64 at once would not fit in registers
  for (int64_t h = threadIdx.x; h < width; h += kThreads) sum += slopes<A>(a[row + h]).first * w[many ? row + h : h];
  const double total = Reduce(storage).Sum(static_cast<double>(sum));
  if (threadIdx.x == 0) out[blockIdx.x] = static_cast<C>(total);
}

// Its gradients: to_a = g_b phi''(a_bh) w_bh, to_w = g_b phi'(a_bh).
template <class C, Activation A>
__global__ void __launch_bounds__(kThreads)
    slope_dot_gradient(const C* a, const C* w, bool many, const C* upstream, int64_t width, C* to_a, C* to_w) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * width;
  const C g = upstream[blockIdx.x];
  for (int64_t h = threadIdx.x; h < width; h += kThreads) {
    const Slopes<C> s = slopes<A>(a[row + h]);
    to_a[row + h] = g * s.second * w[many ? row + h : h];
    to_w[row + h] = g * s.first;
  }
}

}  // namespace fastscore
