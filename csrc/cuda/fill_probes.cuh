// fill_probes on CUDA: the random directions v of a trace estimate, [K, B, D].
#pragma once

#include <cub/block/block_reduce.cuh>

#include "probes.cuh"

namespace fastscore {

// Writes `values` of draw j to each of its probes `color`, `color + colors_apart` .., where the element's colour is the
// probe's, else 0: n elements that are inside the sample, the first being `element` and each `apart` from the one
// before.
template <bool Colored, class T>
__device__ __forceinline__ void scatter(const Form& f, T* out, int64_t j, int64_t row, int64_t element, int n,
                                        const Four<T>& values, int apart, uint32_t color, uint32_t colors_apart) {
  const auto write = [&](int64_t k, const Four<T>& kept) {
    T* to = out + (k * f.batch + row) * f.width + element;
    if (f.fours) {
      kept.store(to);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (i < n) to[apart * i] = kept.v[i];
    }
  };
  if (!Colored) return write(j, values);
  const int64_t m = f.coloring.colors, start = (f.first_draw + j) * m - f.first;
  uint32_t of_element[4] = {};
  colors_of(f.coloring, element, apart, of_element);
  for (int64_t k = color; k < m && start + k < f.count; k += colors_apart) {
    if (start + k < 0) continue;
    Four<T> kept = values;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (of_element[i] != k) kept.v[i] = rounded<T>(0);
    write(start + k, kept);
  }
}

// Signs: each lane makes one call of Philox, and the warp then writes the 128 signs of each, one call after another:
// `share` of them, at most 32. The blocks (., y) write the colours y, y + gridDim.y ..
template <class T, bool Colored>
__global__ void __launch_bounds__(kThreads) fill_signs(Form f, T* out, uint32_t share) {
  const uint32_t lane = threadIdx.x % kWarp, batch = static_cast<uint32_t>(f.batch);
  const uint32_t calls_a_row = static_cast<uint32_t>((f.width + kSigns - 1) / kSigns);
  const uint32_t calls = static_cast<uint32_t>(f.draws) * batch * calls_a_row;
  const uint32_t begin = (blockIdx.x * kWarps + threadIdx.x / kWarp) * share;
  if (begin >= calls) return;
  uint32_t mine[4] = {}, words[4];
  if (lane < share && begin + lane < calls) {
    const uint32_t row = (begin + lane) / calls_a_row;
    draw_words(f, row / batch, row % batch, (begin + lane) % calls_a_row, mine);
  }
  uint32_t call = begin % calls_a_row, row = begin / calls_a_row % batch, j = begin / calls_a_row / batch;
  for (uint32_t from = 0; from < share && begin + from < calls; ++from) {
    words_of_lane(mine, from, words);
    const int64_t element = element_of_lane(call, lane, 0, f.fours);
    if (element < f.width) {
      const uint32_t signs = signs_of_lane(words, lane, f.fours);
      Four<T> values;
      for (int i = 0; i < 4; ++i) values.v[i] = rounded<T>(signs >> i & 1u ? -1 : 1);
      const int64_t left = (f.width - element + kWarp - 1) / kWarp;
      scatter<Colored>(f, out, j, row, element, f.fours ? 4 : static_cast<int>(left < 4 ? left : 4), values,
                       f.fours ? 1 : kWarp, blockIdx.y, gridDim.y);
    }
    if (++call == calls_a_row) {
      call = 0;
      if (++row == batch) {
        row = 0;
        ++j;
      }
    }
  }
}

// Normals: a block makes a part of one row; where the row is to have length sqrt(D), all of it, in two passes. The
// blocks (., ., z) write the colours z, z + gridDim.z ..
template <class T, bool Colored, bool Sphere>
__global__ void __launch_bounds__(kThreads) fill_normals(Form f, T* out) {
  using C = typename ComputeOf<T>::type;
  const uint32_t batch = static_cast<uint32_t>(f.batch), j = blockIdx.x / batch, row = blockIdx.x % batch;
  const int64_t quads = (f.width + 3) / 4;
  const int64_t start = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  const int64_t stride = static_cast<int64_t>(gridDim.y) * kThreads;
  float z[4];
  C scale = 1;
  if (Sphere) {
    using Reduce = cub::BlockReduce<double, kThreads>;
    __shared__ typename Reduce::TempStorage storage;
    __shared__ double length;
    double sum = 0;
    for (int64_t quad = start; quad < quads; quad += stride) {
      draw_normals(f, j, row, static_cast<uint32_t>(quad), z);
      for (int i = 0; i < 4; ++i)
        if (4 * quad + i < f.width) sum = fma(static_cast<double>(z[i]), static_cast<double>(z[i]), sum);
    }
    sum = Reduce(storage).Sum(sum);
    if (threadIdx.x == 0) length = sqrt(static_cast<double>(f.width) / sum);
    __syncthreads();
    scale = static_cast<C>(length);
  }
  for (int64_t quad = start; quad < quads; quad += stride) {
    draw_normals(f, j, row, static_cast<uint32_t>(quad), z);
    Four<T> values;
    for (int i = 0; i < 4; ++i) values.v[i] = rounded<T>(static_cast<C>(z[i]) * scale);
    const int64_t left = f.width - 4 * quad;
    scatter<Colored>(f, out, j, row, 4 * quad, static_cast<int>(left < 4 ? left : 4), values, 1, blockIdx.z, gridDim.z);
  }
}

}  // namespace fastscore
