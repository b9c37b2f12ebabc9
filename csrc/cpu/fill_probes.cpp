// fill_probes: the random directions v of a trace estimate, [K, B, ...].
#if FASTSCORE_KERNELS

#include "signs.inl"

// The m elements of one draw's `values` from `begin` on, to every probe of draw j: those of its colour, else 0.
template <class T>
inline void scatter(const ProbesArguments& a, int64_t j, int64_t row, int64_t begin, int64_t m, const T* values) {
  a.for_each_probe(j, [&](int64_t k, uint32_t color) {
    T* out = static_cast<T*>(a.out) + (k * a.rows.count + row) * a.width + begin;
    if (a.colors.empty()) {
      memcpy(out, values, m * sizeof(T));
      return;
    }
    const uint16_t* colors = a.colors.data() + begin;
    for (int64_t i = 0; i < m; ++i) out[i] = where_same(colors[i], color, values[i]);
  });
}

template <class T>
void fill_signs(const ProbesArguments& a, int64_t j, const Draw& draw, int64_t from, int64_t to) {
  for_each_signs(a.rows, draw, a.width, from, to, [&](int64_t row, int64_t begin, int64_t m, const uint32_t* words) {
    alignas(64) T values[kBlock];
    if (a.colors.empty()) {
      store_signs(words, m, static_cast<T*>(a.out) + (j * a.rows.count + row) * a.width + begin);
      return;
    }
    store_signs(words, m, values);
    scatter(a, j, row, begin, m, values);
  });
}

// Normals; with `squares`, of length sqrt(D).
template <class T>
void fill_normals(const ProbesArguments& a, int64_t j, const Draw& draw, int64_t from, int64_t to) {
  using C = Compute<T>;
  for_each_unit<float>(
      a.rows, draw, from, to, [&](int64_t row, int64_t count, int64_t begin, int64_t n, const float* noise) {
        for_each_row(row, count, begin, n, false, [&](int64_t r, int64_t start, int64_t m, int64_t offset) {
          alignas(64) C buffer[kBlock + kSlack];
          alignas(64) T values[kBlock + kSlack];
          const float* z = noise + offset;
          C* to = target(values, buffer);
          const C scale = a.squares ? static_cast<C>(a.scale(j, r)) : C(1);
          for (int64_t i = 0; i < m; ++i) to[i] = C(z[i]) * scale;
          store(to, m, values);
          scatter(a, j, r, start, m, values);
        });
      });
}

// sum z^2 of each block, for `sphere`.
inline void sum_squares(const ProbesArguments& a, int64_t j, const Draw& draw, int64_t from, int64_t to) {
  for_each_unit<float>(
      a.rows, draw, from, to, [&](int64_t row, int64_t count, int64_t begin, int64_t n, const float* noise) {
        for_each_row(row, count, begin, n, false, [&](int64_t r, int64_t start, int64_t m, int64_t offset) {
          double sums[8] = {}, sum = 0;
          const float* z = noise + offset;
          int64_t i = 0;
          for (; i + 8 <= m; i += 8)
            for (int k = 0; k < 8; ++k) sums[k] = fma_(double(z[i + k]), double(z[i + k]), sums[k]);
          for (int k = 0; i + k < m; ++k) sums[k] = fma_(double(z[i + k]), double(z[i + k]), sums[k]);
          for (int k = 0; k < 8; ++k) sum += sums[k];
          a.squares[a.squares_of(j, r) + start / a.rows.block] = sum;
        });
      });
}

#else

#include "probes.h"

#define FASTSCORE_OPERATOR "fill_probes.cpp"
#include "each_isa.inl"

namespace fastscore {

void probe_squares(const ProbesArguments& a) {
  in_parallel(a, [&](int64_t j, int64_t from, int64_t to) {
    const Draw draw = a.draw_of(j);
    FASTSCORE_DISPATCH(sum_squares, a, j, draw, from, to);
  });
}

// `like` [B, ...] says shape and dtype; its values are not read.
Tensor fill_probes(const Tensor& like, int64_t distribution, int64_t first, int64_t count,
                   const std::vector<int64_t>& coloring, int64_t seed, int64_t step, int64_t stream, int64_t offset,
                   const std::optional<Tensor>& state, const std::optional<Tensor>& index) {
  std::vector<int64_t> sizes(like.sizes().begin(), like.sizes().end());
  STD_TORCH_CHECK(!sizes.empty(), "a tensor must have a batch dimension");
  const auto kind = static_cast<Distribution>(distribution);
  const Draw first_draw = draw(seed, step, stream, offset, state, index, like);
  const int64_t rows = sizes[0];
  sizes.insert(sizes.begin(), count);
  const Tensor out = empty_contiguous(sizes, like);
  ProbesArguments a(out, rows, kind, first, count, coloring, first_draw);
  a.out = out.mutable_data_ptr();
  std::vector<double> squares(kind == Distribution::sphere ? a.draws() * rows * a.rows.blocks : 0);
  if (kind == Distribution::sphere) {
    a.squares = squares.data();
    probe_squares(a);
  }
  for_each_type(out, [&](auto type) {
    using T = decltype(type);
    in_parallel(a, [&](int64_t j, int64_t from, int64_t to) {
      const Draw draw = a.draw_of(j);
      if (kind == Distribution::rademacher) {
        FASTSCORE_DISPATCH(fill_signs<T>, a, j, draw, from, to);
      } else {
        FASTSCORE_DISPATCH(fill_normals<T>, a, j, draw, from, to);
      }
    });
  });
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(fastscore, CPU, library) { library.impl("fill_probes_native", TORCH_BOX(&fill_probes)); }

}  // namespace fastscore

#endif
