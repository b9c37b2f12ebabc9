// probe_dot on CUDA: the inner products of Jacobian products with their probes, which are drawn again. Two stages, each
// in a fixed order: a block sums a chunk of one row, then one thread adds the chunks of a row.
#pragma once

#include <cub/block/block_reduce.cuh>

#include "probes.cuh"

namespace fastscore {

constexpr int64_t kCalls = kThreads;         // Philox calls of signs in a chunk: one per thread
constexpr int64_t kChunk = kCalls * kSigns;  // elements in a chunk

using BlockSum = cub::BlockReduce<double, kThreads>;

// Four elements of a row of products, or as many as there are; 0 for those that do not count.
template <bool Colored, class T, class C>
__device__ __forceinline__ void read(const Form& f, const T* row, int64_t element, int apart, uint32_t color,
                                     C value[4]) {
  Four<T> raw;
  uint32_t colors[4] = {color, color, color, color};
  if (Colored) colors_of(f.coloring, element, apart, colors);
  if (f.fours) raw = Four<T>::load(row + element);
  for (int i = 0; i < 4; ++i) {
    const int64_t d = element + apart * i;
    value[i] = d >= f.width || (Colored && colors[i] != color) ? C(0) : to_compute(f.fours ? raw.v[i] : row[d]);
  }
}

// The sum of one chunk of probe blockIdx.x / B of sample blockIdx.x % B, into partial[B K, chunks].
template <class T, bool Colored>
__global__ void __launch_bounds__(kThreads) dot_signs(Form f, const T* product, double* partial) {
  using C = typename ComputeOf<T>::type;
  __shared__ typename BlockSum::TempStorage storage;
  const int64_t row = blockIdx.x % f.batch, m = Colored ? f.coloring.colors : 1, probe = f.first + blockIdx.x / f.batch;
  const int64_t j = probe / m - f.first_draw, calls_a_row = (f.width + kSigns - 1) / kSigns;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const T* p = product + static_cast<int64_t>(blockIdx.x) * f.width;
  const int64_t begin = blockIdx.y * kCalls, mine = begin + lane * kWarps + warp;  // calls in turn to the warps
  uint32_t made[4] = {}, words[4];
  if (mine < calls_a_row) draw_words(f, j, row, static_cast<uint32_t>(mine), made);
  C sum = 0, value[4];
  for (int from = 0; from < kWarp; ++from) {
    const int64_t call = begin + from * kWarps + warp;
    if (call >= calls_a_row) break;
    words_of_lane(made, from, words);
    const int64_t element = element_of_lane(call, lane, 0, f.fours);
    if (element >= f.width) continue;
    const uint32_t signs = signs_of_lane(words, lane, f.fours);
    read<Colored>(f, p, element, f.fours ? 1 : kWarp, static_cast<uint32_t>(probe % m), value);
    for (int i = 0; i < 4; ++i) sum += signs >> i & 1u ? -value[i] : value[i];
  }
  const double total = BlockSum(storage).Sum(static_cast<double>(sum));
  if (threadIdx.x == 0) partial[static_cast<int64_t>(blockIdx.x) * gridDim.y + blockIdx.y] = total;
}

// The same for normals; with `squares`, also the sum of z^2.
template <class T, bool Colored>
__global__ void __launch_bounds__(kThreads) dot_normals(Form f, const T* product, double* partial, double* squares) {
  using C = typename ComputeOf<T>::type;
  __shared__ typename BlockSum::TempStorage storage;
  const int64_t row = blockIdx.x % f.batch, m = Colored ? f.coloring.colors : 1, probe = f.first + blockIdx.x / f.batch;
  const int64_t j = probe / m - f.first_draw, quads = (f.width + 3) / 4, end = (blockIdx.y + 1) * (kChunk / 4);
  const T* p = product + static_cast<int64_t>(blockIdx.x) * f.width;
  C sum = 0, value[4];
  double square = 0;
  for (int64_t quad = blockIdx.y * (kChunk / 4) + threadIdx.x; quad < quads && quad < end; quad += kThreads) {
    float z[4];
    draw_normals(f, j, row, static_cast<uint32_t>(quad), z);
    read<Colored>(f, p, 4 * quad, 1, static_cast<uint32_t>(probe % m), value);
    for (int i = 0; i < 4; ++i) {
      sum += value[i] * static_cast<C>(z[i]);
      if (4 * quad + i < f.width) square = fma(static_cast<double>(z[i]), static_cast<double>(z[i]), square);
    }
  }
  const int64_t at = static_cast<int64_t>(blockIdx.x) * gridDim.y + blockIdx.y;
  const double total = BlockSum(storage).Sum(static_cast<double>(sum));
  if (threadIdx.x == 0) partial[at] = total;
  if (!squares) return;
  __syncthreads();
  square = BlockSum(storage).Sum(square);
  if (threadIdx.x == 0) squares[at] = square;
}

// Adds the chunks of each row.
template <class R>
__global__ void __launch_bounds__(kThreads)
    add_chunks(const double* partial, const double* squares, int64_t rows, int64_t chunks, int64_t width, R* out) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= rows) return;
  double sum = 0, square = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    sum += partial[row * chunks + chunk];
    if (squares) square += squares[row * chunks + chunk];
  }
  out[row] = static_cast<R>(squares ? sum * sqrt(static_cast<double>(width) / square) : sum);
}

}  // namespace fastscore
