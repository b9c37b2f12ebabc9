// probe_dot: the inner products of Jacobian products with their probes, which are drawn again.
#if FASTSCORE_KERNELS

#include "signs.inl"

// The sum of term(i, k), of element i + k, over the m elements of a block: 32 partial sums, always in the same order,
// so that the bits are the same on every instruction set.
template <class C, class Term>
inline double sum_block(int64_t m, const Term& term) {
  alignas(64) C sums[32] = {};
  int64_t i = 0;
  for (; i + 32 <= m; i += 32)
    for (int k = 0; k < 32; ++k) sums[k] += term(i, k);
  for (int k = 0; i + k < m; ++k) sums[k] += term(i, k);
  double sum = 0;
  for (int k = 0; k < 32; ++k) sum += sums[k];
  return sum;
}

// Adds to the sums of draw j's probes what m elements from `begin` on give; value(p, i, k) is v_i p for element i + k.
template <class T, class Value>
inline void add_block(const ProbesArguments& a, int64_t j, int64_t row, int64_t begin, int64_t m, int64_t block,
                      const Value& value) {
  using C = Compute<T>;
  a.for_each_probe(j, [&](int64_t k, uint32_t color) {
    alignas(64) C buffer[kBlock + kSlack];
    const C* p = load(static_cast<const T*>(a.product) + (k * a.rows.count + row) * a.width + begin, m, buffer);
    double sum;
    if (a.colors.empty()) {
      sum = sum_block<C>(m, [&](int64_t i, int lane) { return value(p[i + lane], i, lane); });
    } else {
      const uint16_t* colors = a.colors.data() + begin;
      sum = sum_block<C>(
          m, [&](int64_t i, int lane) { return where_same(colors[i + lane], color, value(p[i + lane], i, lane)); });
    }
    a.sums[(k * a.rows.count + row) * a.rows.blocks + block] += sum;
  });
}

template <class T>
void dot_signs(const ProbesArguments& a, int64_t j, const Draw& draw, int64_t from, int64_t to) {
  using C = Compute<T>;
  for_each_signs(a.rows, draw, a.width, from, to, [&](int64_t row, int64_t begin, int64_t m, const uint32_t* words) {
    add_block<T>(a, j, row, begin, m, begin / (32 * a.rows.block),
                 [&](C value, int64_t i, int lane) { return flipped(value, words[i / 32], lane); });
  });
}

template <class T>
void dot_normals(const ProbesArguments& a, int64_t j, const Draw& draw, int64_t from, int64_t to) {
  using C = Compute<T>;
  for_each_unit<float>(
      a.rows, draw, from, to, [&](int64_t row, int64_t count, int64_t begin, int64_t n, const float* noise) {
        for_each_row(row, count, begin, n, false, [&](int64_t r, int64_t start, int64_t m, int64_t offset) {
          const float* z = noise + offset;
          add_block<T>(a, j, r, start, m, start / a.rows.block,
                       [&](C value, int64_t i, int lane) { return value * C(z[i + lane]); });
        });
      });
}

#else

#include "probes.h"

#define FASTSCORE_OPERATOR "probe_dot.cpp"
#include "each_isa.inl"

namespace fastscore {

void probe_squares(const ProbesArguments& a);

Tensor probe_dot(const Tensor& product, int64_t distribution, int64_t first, const std::vector<int64_t>& coloring,
                 int64_t seed, int64_t step, int64_t stream, int64_t offset, const std::optional<Tensor>& state,
                 const std::optional<Tensor>& index) {
  STD_TORCH_CHECK(product.dim() >= 2, "product must be [K, B, ...]");
  const int64_t count = product.size(0), rows = product.size(1);
  const auto kind = static_cast<Distribution>(distribution);
  const Tensor in = torch::stable::contiguous(product);
  ProbesArguments a(in, rows, kind, first, count, coloring, draw(seed, step, stream, offset, state, index, rows));
  a.product = in.const_data_ptr();
  std::vector<double> sums(count * rows * a.rows.blocks);
  std::vector<double> squares(kind == Distribution::sphere ? a.draws() * rows * a.rows.blocks : 0);
  a.sums = sums.data();
  if (kind == Distribution::sphere) {
    a.squares = squares.data();
    probe_squares(a);
  }
  for_each_type(in, [&](auto type) {
    using T = decltype(type);
    in_parallel(a, [&](int64_t j, int64_t from, int64_t to) {
      const Draw draw = a.draw_of(j);
      if (kind == Distribution::rademacher) {
        FASTSCORE_DISPATCH(dot_signs<T>, a, j, draw, from, to);
      } else {
        FASTSCORE_DISPATCH(dot_normals<T>, a, j, draw, from, to);
      }
    });
  });

  const bool is_double = in.scalar_type() == ScalarType::Double;
  const Tensor out =
      empty({count, rows}, {rows, 1}, is_double ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32());
  for (int64_t k = 0; k < count; ++k) {
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t at = k * rows + row;
      double sum = 0;
      for (int64_t block = 0; block < a.rows.blocks; ++block) sum += sums[at * a.rows.blocks + block];
      if (a.squares) sum *= a.scale(k, row);
      if (is_double) {
        out.mutable_data_ptr<double>()[at] = sum;
      } else {
        out.mutable_data_ptr<float>()[at] = static_cast<float>(sum);
      }
    }
  }
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(fastscore, CPU, library) { library.impl("probe_dot_native", TORCH_BOX(&probe_dot)); }

}  // namespace fastscore

#endif
