// max_pool: the largest of a square window at stride 1, and where in its window it stands; and the gradient. Of equal
// numbers the first counts, row by row, and a NaN counts as larger than all before it, as torch has it. Each row of the
// image is read once: the largest along the row goes into one of `size` row buffers, of which the output row is made.
#if FASTSCORE_KERNELS

// best, code = v, its code where v is larger or NaN.
template <class C, class Code>
inline void larger(const C* v, const Code* codes, Code code, int64_t n, C* best, Code* best_code) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const bool take = (v[i] > best[i]) | (v[i] != v[i]);
    best_code[i] = take ? code + codes[i] : best_code[i];
    best[i] = choose(take, v[i], best[i]);
  }
}

// The largest of each place's neighbours in a row of n elements, and which of them it is.
template <class C, class Code>
inline void along_the_row(const PoolPlanes& a, const C* x, const Code* none, C* best, Code* code) {
  const int64_t n = a.row(), half = a.size / 2;
  for (int64_t k = 0; k < a.size; ++k) {
    const int64_t by = (k - half) * a.shift, from = by < 0 ? -by : 0, to = by > 0 ? n - by : n;
    int64_t first = from;  // of those for which an earlier neighbour exists
    if (k <= half) {
      first = k == 0 || from + a.shift > n ? n : from + a.shift;
      for (int64_t i = from; i < first; ++i) best[i] = x[i + by], code[i] = static_cast<Code>(k);
    }
    if (first < to) larger(x + first + by, none, static_cast<Code>(k), to - first, best + first, code + first);
  }
}

template <class T>
void max_pool_plane(const PoolPlanes& a, int64_t plane) {
  using C = Compute<T>;
  using Code = std::conditional_t<std::is_same_v<C, double>, int64_t, int32_t>;  // as wide: vectors are alike
  const int64_t n = a.row(), room = n + kSlack, half = a.size / 2, size = a.size;
  const std::unique_ptr<C[]> values(new C[(size + 2) * room]);
  const std::unique_ptr<Code[]> codes(new Code[(size + 2) * room]);
  C *read = values.get() + size * room, *written = read + room;
  Code *none = codes.get() + size * room, *code = none + room;
  memset(none, 0, n * sizeof(Code));
  for (int64_t row = 0; row < a.height + half; ++row) {
    if (row < a.height) {
      const C* x = load(a.at<T>(a.x, plane, row), n, read);
      along_the_row(a, x, none, values.get() + row % size * room, codes.get() + row % size * room);
    }
    const int64_t out_row = row - half;
    if (out_row < 0) continue;
    T* out = a.at<T>(a.out, plane, out_row);
    C* best = target(out, written);
    for (int64_t k = 0; k < size; ++k) {
      const int64_t from = out_row - half + k, here = from % size * room;
      if (from < 0 || from >= a.height) continue;
      const Code down = static_cast<Code>(k * size);
      if (k == 0 || from == 0) {
        memcpy(best, values.get() + here, n * sizeof(C));
        for (int64_t i = 0; i < n; ++i) code[i] = down + codes[here + i];
      } else {
        larger(values.get() + here, codes.get() + here, down, n, best, code);
      }
    }
    store(best, n, out);
    uint8_t* index = a.at<uint8_t>(a.index, plane, out_row);
    for (int64_t i = 0; i < n; ++i) index[i] = static_cast<uint8_t>(code[i]);
  }
}

// Each output's gradient is added where its largest stood: in the outputs' order, row by row.
template <class T>
void max_pool_gradient_plane(const PoolPlanes& a, int64_t plane) {
  using C = Compute<T>;
  const int64_t n = a.row(), half = a.size / 2;
  const std::unique_ptr<C[]> buffers(new C[(a.height + 1) * n + 2 * kSlack]);
  T* out = a.at<T>(a.out, plane, 0);
  C *read = buffers.get(), *sums = target(out, read + n + kSlack);
  memset(sums, 0, a.height * n * sizeof(C));
  int64_t offset[256];
  for (int64_t k = 0; k < a.size * a.size; ++k) offset[k] = (k / a.size - half) * n + (k % a.size - half) * a.shift;
  for (int64_t row = 0; row < a.height; ++row) {
    const C* g = load(a.at<const T>(a.x, plane, row), n, read);
    const uint8_t* index = a.at<const uint8_t>(a.index, plane, row);
    for (int64_t i = 0; i < n; ++i) sums[row * n + i + offset[index[i]]] += g[i];
  }
  store(sums, a.height * n, out);
}

template <class T>
void max_pool(const PoolPlanes& a, int64_t from, int64_t to) {
  for (int64_t i = from; i < to; ++i) a.gradient ? max_pool_gradient_plane<T>(a, i) : max_pool_plane<T>(a, i);
}

#else

#include <memory>
#include <tuple>

#include "../exponential.h"
#include "dense.h"

namespace fastscore {

// Planes [height, width], or images of channels_last memory, whose neighbours in a row are `shift` elements apart.
struct PoolPlanes {
  const void* x;  // of the gradient: upstream
  void *out, *index;
  int64_t planes, height, width, shift, size;
  bool gradient;
  int64_t row() const { return width * shift; }
  template <class T, class P>
  T* at(P* data, int64_t plane, int64_t line) const {
    return static_cast<T*>(const_cast<void*>(static_cast<const void*>(data))) + (plane * height + line) * row();
  }
};

}  // namespace fastscore

#define FASTSCORE_OPERATOR "max_pool.cpp"
#include "each_isa.inl"

namespace fastscore {

static void in_planes(const Tensor& x, const PoolPlanes& planes) {
  const int64_t elements = planes.height * planes.row(), grain = (16384 + elements - 1) / elements;
  for_each_type(x, [&](auto type) {
    const auto work = [&](int64_t from, int64_t to) { FASTSCORE_DISPATCH(max_pool<decltype(type)>, planes, from, to); };
    if (planes.planes <= grain) return work(int64_t{0}, planes.planes);
    torch::stable::parallel_for(0, planes.planes, grain, work);
  });
}

static PoolPlanes planes_of(const Tensor& x, int64_t size, bool channels_last) {
  const int64_t b = x.size(0), c = x.size(1);
  return {nullptr, nullptr, nullptr, channels_last ? b : b * c, x.size(2), x.size(3), channels_last ? c : 1,
          size,    false};
}

static Tensor bytes_like(const Tensor& x) {
  const std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end()), strides(x.strides().begin(), x.strides().end());
  return empty(sizes, strides, aoti_torch_dtype_uint8());
}

static void check_window(const Tensor& x, int64_t size) {
  STD_TORCH_CHECK(x.dim() == 4 && size > 0 && size < 16 && size % 2 == 1,
                  "x must be [B, C, H, W], size odd and at most 15");
}

// A result like `like` and what is written for it, in contiguous or channels_last memory.
struct PoolResult {
  Tensor result, written;
  bool channels_last;
  explicit PoolResult(const Tensor& like)
      : result(torch::stable::empty_like(like)),
        written(result),
        channels_last(!result.is_contiguous() && is_channels_last(result)) {
    if (!channels_last && !result.is_contiguous())
      written = empty_contiguous({like.size(0), like.size(1), like.size(2), like.size(3)}, like);
  }
  // `value`, which may be of another dtype, as the result's elements lie
  Tensor finish(const Tensor& value) const {
    if (written.get() == result.get()) return value;
    Tensor copy = value.get() == written.get() ? result : bytes_like(result);
    torch::stable::copy_(copy, value);
    return copy;
  }
};

std::tuple<Tensor, Tensor> max_pool_forward(const Tensor& x, int64_t size) {
  check_window(x, size);
  const PoolResult out(x);
  const Tensor index = bytes_like(out.written);
  if (x.numel() == 0) return {out.finish(out.written), out.finish(index)};
  const Tensor in = laid_like(out.written, x);
  PoolPlanes planes = planes_of(x, size, out.channels_last);
  planes.x = in.const_data_ptr(), planes.out = out.written.mutable_data_ptr(), planes.index = index.mutable_data_ptr();
  in_planes(x, planes);
  return {out.finish(out.written), out.finish(index)};
}

Tensor max_pool_gradient(const Tensor& upstream, const Tensor& index, int64_t size) {
  check_window(upstream, size);
  STD_TORCH_CHECK(index.scalar_type() == ScalarType::Byte && index.numel() == upstream.numel() && index.dim() == 4,
                  "index must be uint8, of upstream's shape");
  const PoolResult out(upstream);
  if (upstream.numel() == 0) return out.finish(out.written);
  const Tensor g = laid_like(out.written, upstream), at = laid_like(bytes_like(out.written), index);
  PoolPlanes planes = planes_of(upstream, size, out.channels_last);
  planes.x = g.const_data_ptr(), planes.out = out.written.mutable_data_ptr(), planes.index = at.mutable_data_ptr();
  planes.gradient = true;
  in_planes(upstream, planes);
  return out.finish(out.written);
}

STABLE_TORCH_LIBRARY_IMPL(fastscore, CPU, library) {
  library.impl("max_pool_native", TORCH_BOX(&max_pool_forward));
  library.impl("max_pool_gradient_native", TORCH_BOX(&max_pool_gradient));
}

}  // namespace fastscore

#endif
