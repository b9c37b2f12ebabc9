// fill: a new contiguous tensor [B, ...] of normals, uniforms, Rademacher signs, or raw Philox words.
#if FASTSCORE_KERNELS

#include "signs.inl"

template <class T>
void fill_normal(const FillArguments& a, int64_t from, int64_t to) {
  using C = Compute<T>;
  for_each_unit<float>(a.rows, a.draw, from, to, [&](int64_t row, int64_t, int64_t begin, int64_t n, const float* z) {
    alignas(64) C buffer[kBlock + kSlack];
    T* out = static_cast<T*>(a.out) + row * a.rows.width + begin;
    C* to = target(out, buffer);
    for (int64_t i = 0; i < n; ++i) to[i] = z[i];
    store(to, n, out);
  });
}

template <class T>
void fill_uniform(const FillArguments& a, int64_t from, int64_t to) {
  using C = Compute<T>;
  for_each_unit<uint32_t>(a.rows, a.draw, from, to,
                          [&](int64_t row, int64_t, int64_t begin, int64_t n, const uint32_t* words) {
                            alignas(64) C buffer[kBlock + kSlack];
                            T* out = static_cast<T*>(a.out) + row * a.rows.width + begin;
                            C* to = target(out, buffer);
                            for (int64_t i = 0; i < n; ++i)
                              to[i] = static_cast<float>(static_cast<int32_t>(words[i] >> 8)) * 0x1p-24f;
                            store(to, n, out);
                          });
}

template <class T>
void fill_rademacher(const FillArguments& a, int64_t from, int64_t to) {
  for_each_signs(a.rows, a.draw, a.width, from, to, [&](int64_t row, int64_t begin, int64_t m, const uint32_t* words) {
    store_signs(words, m, static_cast<T*>(a.out) + row * a.width + begin);
  });
}

inline void fill_words(const FillArguments& a, int64_t from, int64_t to) {
  for_each_unit<uint32_t>(a.rows, a.draw, from, to,
                          [&](int64_t row, int64_t, int64_t begin, int64_t n, const uint32_t* words) {
                            int64_t* out = static_cast<int64_t*>(a.out) + row * a.rows.width + begin;
                            for (int64_t i = 0; i < n; ++i) out[i] = words[i];
                          });
}

#else

#include "probes.h"

namespace fastscore {
struct FillArguments {
  void* out;
  int64_t width;
  Rows rows;
  Draw draw;
};
enum class Kind : int64_t { normal = 0, uniform = 1, rademacher = 2, words = 3 };
}  // namespace fastscore

#define FASTSCORE_OPERATOR "fill.cpp"
#include "each_isa.inl"

namespace fastscore {

// A new contiguous tensor of the shape and dtype of `like`, whose values are not read.
Tensor fill(const Tensor& like, int64_t kind, int64_t seed, int64_t step, int64_t stream, int64_t offset,
            const std::optional<Tensor>& state, const std::optional<Tensor>& index) {
  const Tensor out = empty_contiguous(std::vector<int64_t>(like.sizes().begin(), like.sizes().end()), like);
  const Layout layout(out);
  const Rows& rows = layout.rows;
  FillArguments a{out.mutable_data_ptr(), rows.width, rows, draw(seed, step, stream, offset, state, index, out)};
  if (kind == static_cast<int64_t>(Kind::words)) {
    STD_TORCH_CHECK(out.scalar_type() == ScalarType::Long, "words are int64");
    in_parallel(rows, [&](int64_t from, int64_t to) { FASTSCORE_DISPATCH(fill_words, a, from, to); });
    return out;
  }
  if (kind == static_cast<int64_t>(Kind::rademacher)) a.rows = Rows(rows.count, 4 * ((rows.width + 127) / 128));
  for_each_type(out, [&](auto type) {
    using T = decltype(type);
    in_parallel(a.rows, [&](int64_t from, int64_t to) {
      switch (static_cast<Kind>(kind)) {
        case Kind::uniform:
          return FASTSCORE_DISPATCH(fill_uniform<T>, a, from, to);
        case Kind::rademacher:
          return FASTSCORE_DISPATCH(fill_rademacher<T>, a, from, to);
        default:
          return FASTSCORE_DISPATCH(fill_normal<T>, a, from, to);
      }
    });
  });
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(fastscore, CPU, library) { library.impl("fill_native", TORCH_BOX(&fill)); }

}  // namespace fastscore

#endif
