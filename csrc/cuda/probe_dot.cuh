// probe_dot on CUDA: the inner products of Jacobian products with their probes, which are drawn again. A block sums a
// chunk of one row; of a row of several chunks one thread then adds the sums, all in an order that the row alone sets.
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

// What a row's sums come to.
template <class R>
__device__ __forceinline__ R total_of(double sum, double square, bool sphere, int64_t width) {
  return static_cast<R>(sphere ? sum * sqrt(static_cast<double>(width) / square) : sum);
}

// Where a block stands: at which probe of which draw, and of which sample.
struct Place {
  uint32_t row, color, j;
  template <bool Colored>
  static __device__ __forceinline__ Place of(const Form& f) {
    const uint32_t batch = static_cast<uint32_t>(f.batch), k = blockIdx.x / batch, row = blockIdx.x % batch;
    if (!Colored) return {row, 0, k};
    const uint32_t m = f.coloring.colors, probe = static_cast<uint32_t>(f.first - f.first_draw * m) + k;
    return {row, probe % m, probe / m};
  }
};

// The sum of one chunk of probe blockIdx.x / B of sample blockIdx.x % B, into partial[B K, chunks]; of the only chunk
// of its row, into out[B K].
template <class T, bool Colored>
__global__ void __launch_bounds__(kThreads)
    dot_signs(Form f, const T* product, double* partial, typename ComputeOf<T>::type* out) {
  using C = typename ComputeOf<T>::type;
  constexpr int kAhead = sizeof(T) == 8 ? 2 : 4;  // calls whose elements a warp reads before it adds the first of them
  __shared__ typename BlockSum::TempStorage storage;
  const Place at = Place::of<Colored>(f);
  const int64_t calls_a_row = (f.width + kSigns - 1) / kSigns;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const T* p = product + static_cast<int64_t>(blockIdx.x) * f.width;
  const int64_t begin = blockIdx.y * kCalls + warp, mine = begin + lane * kWarps;  // calls in turn to the warps
  uint32_t made[4] = {}, words[4];
  if (mine < calls_a_row) draw_words(f, at.j, at.row, static_cast<uint32_t>(mine), made);
  C sum = 0, value[kAhead][4];
  for (int from = 0; from < kWarp && begin + from * kWarps < calls_a_row; from += kAhead) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t element = element_of_lane(begin + (from + i) * kWarps, lane, 0, f.fours);
      if (element < f.width) read<Colored>(f, p, element, f.fours ? 1 : kWarp, at.color, value[i]);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      words_of_lane(made, from + i, words);
      if (element_of_lane(begin + (from + i) * kWarps, lane, 0, f.fours) >= f.width) continue;
      const uint32_t signs = signs_of_lane(words, lane, f.fours);
      for (int k = 0; k < 4; ++k) sum += signs >> k & 1u ? -value[i][k] : value[i][k];
    }
  }
  const double total = BlockSum(storage).Sum(static_cast<double>(sum));
  if (threadIdx.x) return;
  if (gridDim.y == 1) {
    out[blockIdx.x] = total_of<C>(total, 0, false, f.width);
  } else {
    partial[static_cast<int64_t>(blockIdx.x) * gridDim.y + blockIdx.y] = total;
  }
}

// The same for normals; `sphere`: also the sum of z^2, by whose root the row's is divided.
template <class T, bool Colored>
__global__ void __launch_bounds__(kThreads) dot_normals(Form f, const T* product, bool sphere, double* partial,
                                                        double* squares, typename ComputeOf<T>::type* out) {
  using C = typename ComputeOf<T>::type;
  __shared__ typename BlockSum::TempStorage storage;
  const Place at = Place::of<Colored>(f);
  const int64_t quads = (f.width + 3) / 4, end = (blockIdx.y + 1) * (kChunk / 4);
  const T* p = product + static_cast<int64_t>(blockIdx.x) * f.width;
  C sum = 0, value[4];
  double square = 0;
  for (int64_t quad = blockIdx.y * (kChunk / 4) + threadIdx.x; quad < quads && quad < end; quad += kThreads) {
    float z[4];
    read<Colored>(f, p, 4 * quad, 1, at.color, value);
    draw_normals(f, at.j, at.row, static_cast<uint32_t>(quad), z);
    for (int i = 0; i < 4; ++i) {
      sum += value[i] * static_cast<C>(z[i]);
      if (4 * quad + i < f.width) square = fma(static_cast<double>(z[i]), static_cast<double>(z[i]), square);
    }
  }
  const double total = BlockSum(storage).Sum(static_cast<double>(sum));
  if (sphere) {
    __syncthreads();
    square = BlockSum(storage).Sum(square);
  }
  if (threadIdx.x) return;
  if (gridDim.y == 1) {
    out[blockIdx.x] = total_of<C>(total, square, sphere, f.width);
    return;
  }
  const int64_t chunk = static_cast<int64_t>(blockIdx.x) * gridDim.y + blockIdx.y;
  partial[chunk] = total;
  if (sphere) squares[chunk] = square;
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
  out[row] = total_of<R>(sum, square, squares, width);
}

}  // namespace fastscore
