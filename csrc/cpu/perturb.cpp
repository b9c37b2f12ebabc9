// perturb: x_tilde = alpha x + sigma z.
#if FASTSCORE_KERNELS

template <class T>
void perturb(const PerturbArguments& a, int64_t from, int64_t to) {
  using C = Compute<T>;
  const T* x = static_cast<const T*>(a.x);
  T* out = static_cast<T*>(a.out);
  const bool together = !a.sigma.many && !a.alpha.many;
  for_each_unit<float>(
      a.rows, a.draw, from, to, [&](int64_t row, int64_t count, int64_t begin, int64_t n, const float* noise) {
        for_each_row(row, count, begin, n, together, [&](int64_t r, int64_t start, int64_t m, int64_t offset) {
          alignas(64) C x_buffer[kBlock + kSlack], out_buffer[kBlock + kSlack];
          const C sigma = a.sigma.at<C>(r), alpha = a.alpha.data ? a.alpha.at<C>(r) : C(1);
          const C* from = load(x + r * a.rows.width + start, m, x_buffer);
          T* result = out + r * a.rows.width + start;
          C* to = target(result, out_buffer);
          const float* z = noise + offset;
          for (int64_t i = 0; i < m; ++i) to[i] = fma_(sigma, C(z[i]), alpha * from[i]);
          store(to, m, result);
        });
      });
}

#else

#include "tensor.h"

namespace fastscore {
struct PerturbArguments {
  const void* x;
  void* out;
  PerRow sigma, alpha;
  Rows rows;
  Draw draw;
};
}  // namespace fastscore

#define FASTSCORE_OPERATOR "perturb.cpp"
#include "each_isa.inl"

namespace fastscore {

Tensor perturb(const Tensor& x, const std::optional<Tensor>& alpha, const Tensor& sigma, int64_t seed, int64_t step,
               int64_t stream, int64_t offset, const std::optional<Tensor>& state, const std::optional<Tensor>& index) {
  Layout layout(x);
  const Tensor in = layout.input(x);
  Result out(layout, x);
  const PerturbArguments arguments{in.const_data_ptr(),
                                   out.data(),
                                   per_row(sigma, x, "sigma", Values::positive),
                                   alpha ? per_row(*alpha, x, "alpha", Values::not_negative) : PerRow{nullptr, false},
                                   layout.rows,
                                   draw(seed, step, stream, offset, state, index, x)};
  for_each_type(x, [&](auto type) {
    in_parallel(layout.rows,
                [&](int64_t from, int64_t to) { FASTSCORE_DISPATCH(perturb<decltype(type)>, arguments, from, to); });
  });
  return out.finish();
}

STABLE_TORCH_LIBRARY_IMPL(fastscore, CPU, library) { library.impl("perturb_native", TORCH_BOX(&perturb)); }

}  // namespace fastscore

#endif
