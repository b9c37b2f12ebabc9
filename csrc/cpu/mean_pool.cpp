// mean_pool: the mean over a square window at stride 1, with zeros beyond the image. Each row of the image is read
// once: summed along the row into one of `size` row buffers, of which the output row is the sum. Always the same
// additions in the same order: of a window's row from left to right, then of its rows from top to bottom.
#if FASTSCORE_KERNELS

// out[i] = scale (rows[0][i] + rows[1][i] + ...), from left to right. K: how many, 0 where only `count` knows.
template <int K, class C>
inline void sum_of(const C* const* rows, int64_t count, int64_t n, C scale, C* out) {
  if constexpr (K == 5) {
    const C *a = rows[0], *b = rows[1], *c = rows[2], *d = rows[3], *e = rows[4];
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) out[i] = scale * ((((a[i] + b[i]) + c[i]) + d[i]) + e[i]);
  } else if constexpr (K == 3) {
    const C *a = rows[0], *b = rows[1], *c = rows[2];
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) out[i] = scale * ((a[i] + b[i]) + c[i]);
  } else {
    memcpy(out, rows[0], n * sizeof(C));
    for (int64_t k = 1; k < count; ++k) {
      const C* more = rows[k];
#pragma GCC ivdep
      for (int64_t i = 0; i < n; ++i) out[i] += more[i];
    }
    for (int64_t i = 0; i < n; ++i) out[i] *= scale;
  }
}

// `n` elements as numbers to compute with, and nothing beyond them; `spare` has room for them and a vector more.
template <class T, class C>
inline void read(const T* in, int64_t n, C* spare, C* to) {
  memcpy(to, load(in, n, spare), n * sizeof(C));
}

// The rows u.first .. u.last of one unit's output.
template <class T, int K>
void pool_unit(const PoolUnit<T>& u, Compute<T>* memory) {
  using C = Compute<T>;
  const int64_t size = u.size, half = size / 2, pad = half * u.shift, n = (u.segments - 1) * u.pitch + u.length;
  const int64_t room = n + kSlack;
  const C scale = static_cast<C>(u.scale);
  C *padded = memory, *spare = padded + room + 2 * pad, *ring = spare + room;
  const C** lines = reinterpret_cast<const C**>(ring + size * room);
  memset(padded, 0, (n + 2 * pad) * sizeof(C));
  for (int64_t row = u.first - half; row < u.last + half; ++row) {
    C* sums = ring + (row + size) % size * room;
    if (row < 0 || row >= u.height) {
      memset(sums, 0, n * sizeof(C));
    } else {
      for (int64_t s = 0; s < u.segments; ++s)
        read(u.x + row * u.row + s * u.apart, u.length, spare, padded + pad + s * u.pitch);
      for (int64_t k = 0; k < size; ++k) lines[k] = padded + k * u.shift;
      sum_of<K>(lines, size, n, C(1), sums);
    }
    if (row < u.first + half) continue;
    const int64_t out_row = row - half;
    for (int64_t k = 0; k < size; ++k) lines[k] = ring + (out_row - half + k + size) % size * room;
    T* out = u.out + out_row * u.row;
    C* to = u.segments == 1 ? target(out, spare) : spare;
    sum_of<K>(lines, size, n, scale, to);
    for (int64_t s = 0; s < u.segments; ++s) {
      if constexpr (std::is_same_v<T, C>) {
        if (u.segments > 1) memcpy(out + s * u.apart, to + s * u.pitch, u.length * sizeof(C));
      } else {
        store(to + s * u.pitch, u.length, out + s * u.apart);
      }
    }
  }
}

template <class T>
void mean_pool(const PoolArguments& a, int64_t from, int64_t to) {
  alignas(64) char here[kStack];
  const size_t needed = a.memory(sizeof(Compute<T>));
  const std::unique_ptr<char[]> elsewhere(needed > kStack ? new char[needed] : nullptr);
  Compute<T>* buffers = reinterpret_cast<Compute<T>*>(elsewhere ? elsewhere.get() : here);
  for (int64_t i = from; i < to; ++i) {
    const PoolUnit<T> unit = a.unit<T>(i);
    a.size == 5   ? pool_unit<T, 5>(unit, buffers)
    : a.size == 3 ? pool_unit<T, 3>(unit, buffers)
                  : pool_unit<T, 0>(unit, buffers);
  }
}

#else

#include <algorithm>
#include <memory>

#include "dense.h"

namespace fastscore {

constexpr size_t kStack = 1 << 17;  // bytes of buffers that need no allocation

// What is pooled at once: rows of an image, or of many planes; a row is `segments` runs of `length` elements, `apart`
// elements apart in memory and `pitch` in the buffers. Neighbours along the row are `shift` elements apart.
template <class T>
struct PoolUnit {
  const T* x;
  T* out;
  double scale;
  int64_t size, height, first, last, row, segments, length, apart, pitch, shift;
};

struct PoolArguments {
  const void* x;
  void* out;
  int64_t batch, channels, height, width;
  int64_t size;  // of the window, no wider than what can meet the image
  double scale;  // 1 / its whole size^2
  bool channels_last;
  int64_t tile, tiles, bands;  // channels of one unit, or planes; units beside each other, and one above another

  PoolArguments(const Tensor& x, int64_t size, bool channels_last)
      : x(nullptr),
        out(nullptr),
        batch(x.size(0)),
        channels(x.size(1)),
        height(x.size(2)),
        width(x.size(3)),
        size(std::min(size, 2 * std::max(height, width) - 1)),
        scale(1.0 / (static_cast<double>(size) * static_cast<double>(size))),
        channels_last(channels_last) {
    constexpr int64_t kRow = 1280;  // elements of a row buffer; size + 2 of them should stay in the first-level cache
    bands = (height + kBand - 1) / kBand;
    if (channels_last) {
      tiles = std::max<int64_t>(1, channels * width / kRow);
      tile = ((channels + tiles - 1) / tiles + 15) / 16 * 16;  // vectors are full
      tile = std::min(tile, channels);
      tiles = (channels + tile - 1) / tile;
    } else {
      tile = std::max<int64_t>(1, kRow / (width + size / 2));
      tile = std::min(tile, batch * channels);
      tiles = (batch * channels + tile - 1) / tile;
    }
  }
  int64_t units() const { return tiles * bands * (channels_last ? batch : 1); }
  int64_t elements_a_unit() const { return tile * std::min(height, kBand) * width; }
  int64_t memory(int64_t element) const {
    const int64_t row = channels_last ? tile * width : tile * (width + size / 2);
    return (size + 2) * (row + kSlack) * element + size * (channels_last ? tile : 1) * element +
           size * static_cast<int64_t>(sizeof(void*));
  }
  template <class T>
  PoolUnit<T> unit(int64_t i) const {
    const int64_t band = i % bands, at = i / bands % tiles * tile, image = i / bands / tiles;
    const int64_t left = (channels_last ? channels : batch * channels) - at, part = tile < left ? tile : left;
    PoolUnit<T> u{static_cast<const T*>(x), static_cast<T*>(out), scale, size, height};
    u.first = band * kBand;
    u.last = std::min(height, u.first + kBand);
    if (channels_last) {
      const bool whole = part == channels;
      const int64_t start = image * height * width * channels + at;
      u.x += start, u.out += start;
      u.row = width * channels, u.shift = u.pitch = part, u.apart = channels;
      u.segments = whole ? 1 : width, u.length = whole ? width * channels : part;
    } else {
      u.x += at * height * width, u.out += at * height * width;
      u.row = width, u.shift = 1, u.apart = height * width, u.pitch = width + size / 2;
      u.segments = part, u.length = width;
    }
    return u;
  }

 private:
  static constexpr int64_t kBand = 64;  // rows
};

}  // namespace fastscore

#define FASTSCORE_OPERATOR "mean_pool.cpp"
#include "each_isa.inl"

namespace fastscore {

Tensor mean_pool(const Tensor& x, int64_t size) {
  STD_TORCH_CHECK(x.dim() == 4 && size > 0 && size % 2 == 1, "x must be [B, C, H, W] and size odd");
  const Tensor out = torch::stable::empty_like(x);
  if (x.numel() == 0) return out;
  const bool channels_last = !out.is_contiguous() && is_channels_last(out);
  const bool direct = channels_last || out.is_contiguous();
  const Tensor written = direct ? out : empty_contiguous({x.size(0), x.size(1), x.size(2), x.size(3)}, x);
  const Tensor in = laid_like(written, x);
  PoolArguments arguments(x, size, channels_last);
  arguments.x = in.const_data_ptr();
  arguments.out = written.mutable_data_ptr();
  const int64_t grain = (16384 + arguments.elements_a_unit() - 1) / arguments.elements_a_unit();
  for_each_type(x, [&](auto type) {
    const auto work = [&](int64_t from, int64_t to) {
      FASTSCORE_DISPATCH(mean_pool<decltype(type)>, arguments, from, to);
    };
    if (arguments.units() <= grain) return work(int64_t{0}, arguments.units());
    torch::stable::parallel_for(0, arguments.units(), grain, work);
  });
  if (!direct) {
    Tensor target = out;
    torch::stable::copy_(target, written);
  }
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(fastscore, CPU, library) { library.impl("mean_pool_native", TORCH_BOX(&mean_pool)); }

}  // namespace fastscore

#endif
