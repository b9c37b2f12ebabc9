// The sum over hidden units that an MLP's divergence is: d_b = sum_h phi'(a_bh) w_bh, and its gradients.
#if FASTSCORE_KERNELS

template <class K>
void slope_dot(const MlpArguments& m, int64_t from, int64_t to) {
  using C = typename K::Number;
  for (int64_t row = from; row < to; ++row) {
    const C *a = static_cast<const C*>(m.a) + row * m.width,
            *w = static_cast<const C*>(m.w) + (m.many ? row * m.width : 0);
    double sum = 0;
    for (int64_t begin = 0; begin < m.width; begin += kBlock) {  // 32 partial sums a block, always in the same order
      const int64_t n = std::min<int64_t>(kBlock, m.width - begin);
      alignas(64) C sums[32] = {};
      int64_t i = begin;
      for (; i + 32 <= begin + n; i += 32)
        for (int k = 0; k < 32; ++k) sums[k] += slopes<K::activation>(a[i + k]).first * w[i + k];
      for (int k = 0; i + k < begin + n; ++k) sums[k] += slopes<K::activation>(a[i + k]).first * w[i + k];
      for (int k = 0; k < 32; ++k) sum += sums[k];
    }
    static_cast<C*>(m.out)[row] = static_cast<C>(sum);
  }
}

template <class K>
void slope_dot_gradient(const MlpArguments& m, int64_t from, int64_t to) {
  using C = typename K::Number;
  for (int64_t row = from; row < to; ++row) {
    const C *a = static_cast<const C*>(m.a) + row * m.width,
            *w = static_cast<const C*>(m.w) + (m.many ? row * m.width : 0), g = static_cast<const C*>(m.upstream)[row];
    C *to_a = static_cast<C*>(m.to_a) + row * m.width, *to_w = static_cast<C*>(m.to_w) + row * m.width;
#pragma GCC ivdep
    for (int64_t h = 0; h < m.width; ++h) {
      const Slopes<C> s = slopes<K::activation>(a[h]);
      to_a[h] = g * s.second * w[h];
      to_w[h] = g * s.first;
    }
  }
}

#else

#include <algorithm>

#include "../activation.h"
#include "tensor.h"

namespace fastscore {
struct MlpArguments {
  const void *a, *w, *upstream;
  bool many;  // w is [B, H], else [H]
  int64_t width;
  void *out, *to_a, *to_w;
};
template <class C, Activation A>
struct Kind {
  using Number = C;
  static constexpr Activation activation = A;
};
}  // namespace fastscore

#define FASTSCORE_OPERATOR "mlp_divergence.cpp"
#include "each_isa.inl"

namespace fastscore {

template <class C, class F>
static void for_each_activation(int64_t activation, const F& f) {
  switch (static_cast<Activation>(activation)) {
    case Activation::tanh:
      return f(Kind<C, Activation::tanh>{});
    case Activation::sigmoid:
      return f(Kind<C, Activation::sigmoid>{});
    case Activation::softplus:
      return f(Kind<C, Activation::softplus>{});
    case Activation::silu:
      return f(Kind<C, Activation::silu>{});
    default:
      return f(Kind<C, Activation::elu>{});
  }
}

// Calls f with the Kind for a [B, H] and w [H] or [B, H].
template <class F>
static void for_kind(const Tensor& a, const Tensor& w, int64_t activation, const F& f) {
  const bool is_double = a.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK((is_double || a.scalar_type() == ScalarType::Float) && a.dim() == 2 &&
                      w.scalar_type() == a.scalar_type() && w.size(w.dim() - 1) == a.size(1) &&
                      (w.dim() == 1 || w.numel() == a.numel()),
                  "a must be [B, H] and w [H] or [B, H], both float32 or both float64");
  is_double ? for_each_activation<double>(activation, f) : for_each_activation<float>(activation, f);
}

// Calls work(from, to) on the rows of a, over threads where there are enough elements.
template <class F>
static void in_parallel(const Tensor& a, const F& work) {
  constexpr int64_t kGrain = 4096;  // elements, each of them an exponential
  const int64_t rows = a.size(0), grain = (kGrain + a.size(1)) / (a.size(1) + 1);
  if (rows <= grain) return work(int64_t{0}, rows);
  torch::stable::parallel_for(0, rows, grain, work);
}

Tensor mlp_divergence(const Tensor& a_in, const Tensor& w_in, int64_t activation) {
  const Tensor a = torch::stable::contiguous(a_in), w = torch::stable::contiguous(w_in);
  const Tensor out = empty({a.size(0)}, {1}, a);
  const MlpArguments m{a.const_data_ptr(), w.const_data_ptr(),     nullptr, w.dim() == 2,
                       a.size(1),          out.mutable_data_ptr(), nullptr, nullptr};
  for_kind(a, w, activation, [&](auto kind) {
    in_parallel(a, [&](int64_t from, int64_t to) { FASTSCORE_DISPATCH(slope_dot<decltype(kind)>, m, from, to); });
  });
  return out;
}

// (g_b phi''(a_bh) w_bh, g_b phi'(a_bh)), both [B, H].
std::tuple<Tensor, Tensor> mlp_divergence_gradient(const Tensor& a_in, const Tensor& w_in, const Tensor& upstream_in,
                                                   int64_t activation) {
  const Tensor a = torch::stable::contiguous(a_in), w = torch::stable::contiguous(w_in),
               upstream = torch::stable::contiguous(upstream_in);
  const Tensor to_a = empty_contiguous({a.size(0), a.size(1)}, a), to_w = empty_contiguous({a.size(0), a.size(1)}, a);
  const MlpArguments m{
      a.const_data_ptr(),      w.const_data_ptr(),     upstream.const_data_ptr(), w.dim() == 2, a.size(1), nullptr,
      to_a.mutable_data_ptr(), to_w.mutable_data_ptr()};
  for_kind(a, w, activation, [&](auto kind) {
    in_parallel(a,
                [&](int64_t from, int64_t to) { FASTSCORE_DISPATCH(slope_dot_gradient<decltype(kind)>, m, from, to); });
  });
  return {to_a, to_w};
}

STABLE_TORCH_LIBRARY_IMPL(fastscore, CPU, library) {
  library.impl("mlp_divergence_native", TORCH_BOX(&mlp_divergence));
  library.impl("mlp_divergence_gradient_native", TORCH_BOX(&mlp_divergence_gradient));
}

}  // namespace fastscore

#endif
