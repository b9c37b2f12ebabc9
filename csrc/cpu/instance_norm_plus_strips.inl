// How instance_norm_plus walks through memory: units, rows, chunks, whole planes turned. Included once for each
// instruction set.
#include "transpose.inl"

// The unit `index`: sample, first channel, span, its first element in the tensor and how many it has; channels and
// elements of its rows.
struct NormUnit {
  int64_t sample, channel, span, at, width, row, elements;
  NormUnit(const NormArguments& a, int64_t index) {
    const int64_t strips = a.strips();
    span = index % a.spans;
    channel = index / a.spans % strips * a.width;
    sample = index / a.spans / strips;
    width = std::min(a.width, a.channels - channel);
    row = a.row / a.width * width;
    const int64_t first = span * a.span;
    at = (sample * a.channels + channel) * a.pixels + first * width;
    elements = std::min(a.span, a.pixels - first) * width;
  }
  double* sums(const NormArguments& a) const { return a.sums_of(sample) + span * 2 * a.channels + channel; }
};

// n elements from `from` on, in rows: where they are whole planes, which are one chunk, these are turned. `buffer`
// takes them, `other` is used on the way.
template <class T, class C>
inline const C* norm_load(const NormArguments& a, const T* from, int64_t n, C* buffer, C* other) {
  if (!a.turned) return load(from, n, buffer);
  transpose(load(from, n, other), n / a.pixels, a.pixels, buffer);
  return buffer;
}

// Where such rows are written before they are stored in `to`.
template <class T, class C>
inline C* norm_target(const NormArguments& a, T* to, C* buffer) {
  return a.turned ? buffer : target(to, buffer);
}

template <class T, class C>
inline void norm_store(const NormArguments& a, const C* rows, int64_t n, T* to, C* other) {
  if (!a.turned) return store(rows, n, to);
  C* planes = target(to, other);
  transpose(rows, a.pixels, n / a.pixels, planes);
  store(planes, n, to);
}

// A number for each place of a row, of a number for each channel.
template <class C>
inline void norm_tile(const C* from, int64_t width, int64_t row, C* out) {
  if (width == 1) {
    for (int64_t k = 0; k < row; ++k) out[k] = *from;
  } else {
    for (int64_t start = 0; start < row; start += width)
      for (int64_t k = 0; k < width; ++k) out[start + k] = from[k];
  }
}

// The sums of a row's places, added up to one for each channel: the first `width`. By halves: the same order always.
template <class C>
inline void norm_fold(C* sums, int64_t width, int64_t row) {
  for (int64_t pixels = row / width; pixels > 1;) {
    const int64_t kept = (pixels + 1) / 2;
#pragma GCC ivdep
    for (int64_t k = 0; k < (pixels - kept) * width; ++k) sums[k] += sums[kept * width + k];
    pixels = kept;
  }
}

// Calls visit(at, n) for the chunks of a unit: n elements from `at` on in the tensor.
template <class F>
inline void norm_chunks(const NormArguments& a, const NormUnit& unit, const F& visit) {
  for (int64_t begin = 0; begin < unit.elements; begin += a.chunk)
    visit(unit.at + begin, std::min(a.chunk, unit.elements - begin));
}
