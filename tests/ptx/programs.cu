// Small kernels for the interpreter's tests, compiled by nvcc where it is there.
#include <cub/block/block_reduce.cuh>

#include "normal.h"

extern "C" __global__ void saxpy(float* y, const float* x, float a, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = a * x[i] + y[i];
}

template <int PAD>
__device__ void transpose(float* out, const float* x, int n) {
  __shared__ float tile[32][32 + PAD];
  for (int j = threadIdx.y; j < 32; j += 8) tile[j][threadIdx.x] = x[(blockIdx.y * 32 + j) * n + blockIdx.x * 32 + threadIdx.x];
  __syncthreads();
  for (int j = threadIdx.y; j < 32; j += 8) out[(blockIdx.x * 32 + j) * n + blockIdx.y * 32 + threadIdx.x] = tile[threadIdx.x][j];
}
extern "C" __global__ void transpose_conflicts(float* out, const float* x, int n) { transpose<0>(out, x, n); }
extern "C" __global__ void transpose_padded(float* out, const float* x, int n) { transpose<1>(out, x, n); }

extern "C" __global__ void warp_scan(int* out, const int* x, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % 32;
  int sum = i < n ? x[i] : 0;
  for (int d = 1; d < 32; d *= 2) {
    const int before = __shfl_up_sync(~0u, sum, d);
    if (lane >= d) sum += before;
  }
  if (i < n) out[i] = sum;
}

extern "C" __global__ void collatz(int* out, const int* x, int n) {  // every thread has another number of rounds
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int steps = 0;
  for (unsigned v = x[i]; v != 1; steps++) {
    if (v & 1) v = 3 * v + 1; else v /= 2;
  }
  out[i] = steps;
}

extern "C" __global__ void block_sum(float* out, const float* x, int n) {
  using Reduce = cub::BlockReduce<float, 128>;
  __shared__ typename Reduce::TempStorage storage;
  const int i = blockIdx.x * 128 + threadIdx.x;
  const float sum = Reduce(storage).Sum(i < n ? x[i] : 0.f);
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

extern "C" __global__ void histogram(int* out, const int* x, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) atomicAdd(&out[x[i]], 1);
}

// The planted faults: the block's values reversed through shared memory, with and without a barrier.
template <bool BARRIER>
__device__ void reversed(int* out, const int* x) {
  __shared__ int tile[128];
  tile[threadIdx.x] = x[threadIdx.x];
  if (BARRIER) __syncthreads();
  out[threadIdx.x] = tile[127 - threadIdx.x];
}
extern "C" __global__ void reverse(int* out, const int* x) { reversed<true>(out, x); }
extern "C" __global__ void reverse_without_barrier(int* out, const int* x) { reversed<false>(out, x); }

extern "C" __global__ void local_array(float* out, const float* x, int n) {  // indexed at run time: local memory
  float last[8];
  for (int k = 0; k < 8; k++) last[k] = x[(threadIdx.x + k) % n];
  out[threadIdx.x] = last[(threadIdx.x * 3) % 8] / last[threadIdx.x % 8];
}

extern "C" __global__ void logistic(float* out, const float* x, int n) {  // approximate: ex2 and div
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = __fdividef(1.f, 1.f + __expf(-x[i]));
}

// The header that the backends share, a template and so a mangled name, and a struct by value.
struct Draw {
  float* out;
  uint32_t seed[2], step, stream, first;
  int rows, quads;
};
template <int WORDS>
__global__ void normals(Draw draw) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= draw.rows * draw.quads) return;
  uint32_t words[4] = {uint32_t(i % draw.quads), draw.first + i / draw.quads, draw.step, draw.stream};
  fastscore::philox4x32(words, draw.seed[0], draw.seed[1]);
  float4 z;
  fastscore::box_muller(words[0], words[1], z.x, z.y);
  fastscore::box_muller(words[2], words[3], z.z, z.w);
  reinterpret_cast<float4*>(draw.out)[i] = z;
}
template __global__ void normals<4>(Draw);
