// What the probes' kernels share: where a draw stands, and four consecutive elements at once.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "../probes.h"

namespace fastscore {

constexpr int kThreads = 256, kWarp = 32, kWarps = kThreads / kWarp;
constexpr unsigned kAll = 0xFFFFFFFFu;

template <class T>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};

__device__ __forceinline__ float to_compute(float v) { return v; }
__device__ __forceinline__ double to_compute(double v) { return v; }
__device__ __forceinline__ float to_compute(__half v) { return __half2float(v); }
__device__ __forceinline__ float to_compute(__nv_bfloat16 v) { return __bfloat162float(v); }
template <class T>
__device__ __forceinline__ T rounded(typename ComputeOf<T>::type v) {
  return v;
}
template <>
__device__ __forceinline__ __half rounded<__half>(float v) {
  return __float2half_rn(v);
}
template <>
__device__ __forceinline__ __nv_bfloat16 rounded<__nv_bfloat16>(float v) {
  return __float2bfloat16_rn(v);
}

// Four consecutive elements: one access of 64 or 128 bits, or two of 128. By intrinsics, because the compiler otherwise
// takes an assignment apart into four.
template <class T>
struct alignas(sizeof(T) == 2 ? 8 : 16) Four {
  T v[4];
  using Access = typename std::conditional<sizeof(T) == 2, uint2, uint4>::type;
  static constexpr int accesses = sizeof(T) == 8 ? 2 : 1;

  __device__ __forceinline__ void store(T* to) const {
    Access raw[accesses];
    memcpy(raw, v, sizeof v);
    for (int i = 0; i < accesses; ++i) __stwb(reinterpret_cast<Access*>(to) + i, raw[i]);
  }
  static __device__ __forceinline__ Four load(const T* from) {
    Access raw[accesses];
    for (int i = 0; i < accesses; ++i) raw[i] = __ldg(reinterpret_cast<const Access*>(from) + i);
    Four result;
    memcpy(result.v, raw, sizeof result.v);
    return result;
  }
};

// Where the probes stand in the random sequence; a draw j further takes step + j.
struct Position {
  uint32_t key0, key1, step, stream;
  uint32_t offset;       // the global index of sample 0
  const int64_t* state;  // device memory: seed and step, in position of the above; or null
  const int64_t* index;  // the global index of every sample; or null
};

// The probes of one call, [count, B, D]: those of `draws` draws from `first_draw` on.
struct Form {
  int64_t first, count, batch, width, first_draw, draws;
  Coloring coloring;
  bool fours;  // rows may be read and written four elements at a time
  Position position;
};

// The four words of block `block` of sample `row` in draw `first_draw() + j`.
__device__ __forceinline__ void draw_words(const Form& f, int64_t j, int64_t row, uint32_t block, uint32_t words[4]) {
  Position p = f.position;
  if (p.state) {
    const uint64_t seed = static_cast<uint64_t>(p.state[0]);
    p.key0 = static_cast<uint32_t>(seed);
    p.key1 = static_cast<uint32_t>(seed >> 32);
    p.step = static_cast<uint32_t>(p.state[1]);
  }
  words[0] = block;
  words[1] = p.index ? static_cast<uint32_t>(p.index[row]) : p.offset + static_cast<uint32_t>(row);
  words[2] = p.step + static_cast<uint32_t>(f.first_draw + j);
  words[3] = p.stream;
  philox4x32(words, p.key0, p.key1);
}

__device__ __forceinline__ void draw_normals(const Form& f, int64_t j, int64_t row, uint32_t quad, float z[4]) {
  uint32_t words[4];
  draw_words(f, j, row, quad, words);
  box_muller(words[0], words[1], z[0], z[1]);
  box_muller(words[2], words[3], z[2], z[3]);
}

// The four words that lane `from` of the warp holds.
__device__ __forceinline__ void words_of_lane(const uint32_t mine[4], int from, uint32_t words[4]) {
  for (int i = 0; i < 4; ++i) words[i] = __shfl_sync(kAll, mine[i], from);
}

// A lane's part of the 128 signs of one call. In fours it is elements 4 lane .. 4 lane + 3: then signs holds them in
// its low four bits. Else it is elements 32 i + lane: bit i.
__device__ __forceinline__ uint32_t signs_of_lane(const uint32_t words[4], int lane, bool fours) {
  if (fours) {
    const uint32_t low = lane & 8 ? words[1] : words[0], high = lane & 8 ? words[3] : words[2];
    return (lane & 16 ? high : low) >> (4 * lane & 31) & 15u;
  }
  uint32_t signs = 0;
  for (int i = 0; i < 4; ++i) signs |= (words[i] >> lane & 1u) << i;
  return signs;
}
__device__ __forceinline__ int64_t element_of_lane(int64_t call, int lane, int i, bool fours) {
  return call * kSigns + (fours ? 4 * lane + i : kWarp * i + lane);
}

// The colours of a lane's four elements, the first being `element` and each `apart` from the one before.
__device__ __forceinline__ void colors_of(const Coloring& coloring, int64_t element, int apart, uint32_t color[4]) {
  Colors walk(coloring, static_cast<uint32_t>(element));
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    color[i] = apart == 1 ? walk.next() : coloring.of(static_cast<uint32_t>(element + apart * i));
  }
}

}  // namespace fastscore
