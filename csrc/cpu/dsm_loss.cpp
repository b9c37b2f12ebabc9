// dsm_loss: l_b = 1/2 sigma_b^weight || score_b + z_b / sigma_b ||^2, and its gradient.
#if FASTSCORE_KERNELS

// The residual r = score + z / sigma: returns the sum of its squares, and writes factor r where `out` is not null.
// 32 partial sums, always in the same order: the same bits on every instruction set.
template <class T, class C>
inline double residual(const T* score, const float* z, int64_t n, C inverse, C factor, T* out) {
  alignas(64) C score_buffer[kBlock + kSlack], out_buffer[kBlock + kSlack], sums[32] = {};
  const C* s = load(score, n, score_buffer);
  C* to = out ? target(out, out_buffer) : out_buffer;
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
#pragma GCC ivdep
    for (int64_t k = 0; k < 32; ++k) {
      const C r = fma_(C(z[i + k]), inverse, s[i + k]);
      sums[k] = fma_(r, r, sums[k]);
      if (out) to[i + k] = factor * r;
    }
  }
  for (int64_t k = 0; i + k < n; ++k) {
    const C r = fma_(C(z[i + k]), inverse, s[i + k]);
    sums[k] = fma_(r, r, sums[k]);
    if (out) to[i + k] = factor * r;
  }
  if (out) store(to, n, out);
  double sum = 0;
  for (int64_t k = 0; k < 32 && k < n; ++k) sum += sums[k];  // the others are 0
  return sum;
}

template <class T>
void dsm_loss(const DsmArguments& a, int64_t from, int64_t to) {
  using C = Compute<T>;
  const T* score = static_cast<const T*>(a.score);
  T* gradient = static_cast<T*>(a.gradient);
  for_each_unit<float>(
      a.rows, a.draw, from, to, [&](int64_t row, int64_t count, int64_t begin, int64_t n, const float* noise) {
        for_each_row(row, count, begin, n, false, [&](int64_t r, int64_t start, int64_t m, int64_t offset) {
          const C sigma = a.sigma.at<C>(r), upstream = a.upstream.data ? a.upstream.at<C>(r) : C(a.scale);
          const int64_t at = r * a.rows.width + start;
          const double power = a.power(sigma);
          const double sum = residual(score + at, noise + offset, m, C(1) / sigma, C(upstream * power),
                                      gradient ? gradient + at : nullptr);
          if (a.sums) a.sums[r * a.rows.blocks + start / a.rows.block] = sum;
        });
      });
}

#else

#include "tensor.h"

namespace fastscore {
struct DsmArguments {
  const void* score;
  void* gradient;  // or null
  PerRow sigma, upstream;
  double weight, scale;  // the gradient is upstream (or scale) sigma^weight r
  double* sums;          // [B, blocks], or null
  Rows rows;
  Draw draw;
  double power(double sigma) const { return weight == 2 ? sigma * sigma : std::pow(sigma, weight); }
};
}  // namespace fastscore

#define FASTSCORE_OPERATOR "dsm_loss.cpp"
#include "each_isa.inl"

namespace fastscore {

static void run(const Tensor& score, const Layout& layout, const DsmArguments& arguments) {
  for_each_type(score, [&](auto type) {
    in_parallel(layout.rows,
                [&](int64_t from, int64_t to) { FASTSCORE_DISPATCH(dsm_loss<decltype(type)>, arguments, from, to); });
  });
}

// 1/2 sigma^weight times the sum of each row's blocks, in their order, into `loss`.
static void finish(const DsmArguments& a, bool is_double, void* loss) {
  for (int64_t row = 0; row < a.rows.count; ++row) {
    double sum = 0;
    for (int64_t block = 0; block < a.rows.blocks; ++block) sum += a.sums[row * a.rows.blocks + block];
    const double value = 0.5 * sum * a.power(is_double ? a.sigma.at<double>(row) : a.sigma.at<float>(row));
    if (is_double) {
      static_cast<double*>(loss)[row] = value;
    } else {
      static_cast<float*>(loss)[row] = static_cast<float>(value);
    }
  }
}

// The loss [B], and into `gradient`, where there is one, scale sigma^weight (score + z / sigma), in the same pass.
static Tensor loss_into(void* gradient, const Layout& layout, const Tensor& in, const Tensor& sigma, double weight,
                        double scale, const Draw& draw) {
  std::vector<double> sums(layout.rows.count * layout.rows.blocks);
  const DsmArguments arguments{in.const_data_ptr(),
                               gradient,
                               per_row(sigma, in, "sigma", Values::positive),
                               PerRow{nullptr, false},
                               weight,
                               scale,
                               sums.data(),
                               layout.rows,
                               draw};
  run(in, layout, arguments);
  Tensor loss = empty({layout.rows.count}, {1}, sigma);
  finish(arguments, sigma.scalar_type() == ScalarType::Double, loss.mutable_data_ptr());
  return loss;
}

Tensor dsm_loss(const Tensor& score, const Tensor& sigma, double weight, int64_t seed, int64_t step, int64_t stream,
                int64_t offset, const std::optional<Tensor>& state, const std::optional<Tensor>& index) {
  Layout layout(score);
  return loss_into(nullptr, layout, layout.input(score), sigma, weight, 1.0,
                   draw(seed, step, stream, offset, state, index, score));
}

std::tuple<Tensor, Tensor> dsm_loss_and_gradient(const Tensor& score, const Tensor& sigma, double weight, double scale,
                                                 int64_t seed, int64_t step, int64_t stream, int64_t offset,
                                                 const std::optional<Tensor>& state,
                                                 const std::optional<Tensor>& index) {
  Layout layout(score);
  Result gradient(layout, score);
  const Tensor loss = loss_into(gradient.data(), layout, layout.input(score), sigma, weight, scale,
                                draw(seed, step, stream, offset, state, index, score));
  return {loss, gradient.finish()};
}

// upstream_b sigma_b^weight (score_b + z_b / sigma_b).
Tensor dsm_loss_gradient(const Tensor& score, const Tensor& sigma, double weight, const Tensor& upstream, int64_t seed,
                         int64_t step, int64_t stream, int64_t offset, const std::optional<Tensor>& state,
                         const std::optional<Tensor>& index) {
  Layout layout(score);
  const Tensor in = layout.input(score);
  Result gradient(layout, score);
  run(score, layout,
      DsmArguments{in.const_data_ptr(), gradient.data(), per_row(sigma, score, "sigma", Values::positive),
                   per_row(upstream, score, "upstream"), weight, 1.0, nullptr, layout.rows,
                   draw(seed, step, stream, offset, state, index, score)});
  return gradient.finish();
}

STABLE_TORCH_LIBRARY_IMPL(fastscore, CPU, library) {
  library.impl("dsm_loss_native", TORCH_BOX(&dsm_loss));
  library.impl("dsm_loss_and_gradient_native", TORCH_BOX(&dsm_loss_and_gradient));
  library.impl("dsm_loss_gradient_native", TORCH_BOX(&dsm_loss_gradient));
}

}  // namespace fastscore

#endif
