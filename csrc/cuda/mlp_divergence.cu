// mlp_divergence for CUDA tensors.
#include "host.h"
#include "mlp_divergence.cuh"

namespace fastscore {

// Calls f with the activation as a constant.
template <class F>
void for_each_activation(int64_t activation, const F& f) {
  switch (static_cast<Activation>(activation)) {
    case Activation::tanh:
      return f(std::integral_constant<Activation, Activation::tanh>{});
    case Activation::sigmoid:
      return f(std::integral_constant<Activation, Activation::sigmoid>{});
    case Activation::softplus:
      return f(std::integral_constant<Activation, Activation::softplus>{});
    case Activation::silu:
      return f(std::integral_constant<Activation, Activation::silu>{});
    default:
      return f(std::integral_constant<Activation, Activation::elu>{});
  }
}

static void check(const Tensor& a, const Tensor& w) {
  STD_TORCH_CHECK((a.scalar_type() == ScalarType::Float || a.scalar_type() == ScalarType::Double) && a.dim() == 2 &&
                      w.scalar_type() == a.scalar_type() && w.size(w.dim() - 1) == a.size(1) &&
                      (w.dim() == 1 || w.numel() == a.numel()) && w.get_device_index() == a.get_device_index(),
                  "a must be [B, H] and w [H] or [B, H], both float32 or both float64, on one device");
}

Tensor mlp_divergence(const Tensor& a_in, const Tensor& w_in, int64_t activation) {
  check(a_in, w_in);
  const OnDevice device(a_in);
  const Tensor a = torch::stable::contiguous(a_in), w = torch::stable::contiguous(w_in);
  Tensor out = empty({a.size(0)}, a);
  if (a.size(0) == 0) return out;
  const auto run = [&](auto type) {
    using C = decltype(type);
    for_each_activation(activation, [&](auto kind) {
      slope_dot<C, decltype(kind)::value><<<grid(a.size(0)), kThreads, 0, device.stream>>>(
          a.const_data_ptr<C>(), w.const_data_ptr<C>(), w.dim() == 2, a.size(1), out.mutable_data_ptr<C>());
    });
  };
  a.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
  check_launch("mlp_divergence");
  return out;
}

std::tuple<Tensor, Tensor> mlp_divergence_gradient(const Tensor& a_in, const Tensor& w_in, const Tensor& upstream_in,
                                                   int64_t activation) {
  check(a_in, w_in);
  const OnDevice device(a_in);
  const Tensor a = torch::stable::contiguous(a_in), w = torch::stable::contiguous(w_in),
               upstream = torch::stable::contiguous(upstream_in);
  Tensor to_a = empty({a.size(0), a.size(1)}, a), to_w = empty({a.size(0), a.size(1)}, a);
  if (a.numel() == 0) return {to_a, to_w};
  const auto run = [&](auto type) {
    using C = decltype(type);
    for_each_activation(activation, [&](auto kind) {
      slope_dot_gradient<C, decltype(kind)::value><<<grid(a.size(0)), kThreads, 0, device.stream>>>(
          a.const_data_ptr<C>(), w.const_data_ptr<C>(), w.dim() == 2, upstream.const_data_ptr<C>(), a.size(1),
          to_a.mutable_data_ptr<C>(), to_w.mutable_data_ptr<C>());
    });
  };
  a.scalar_type() == ScalarType::Double ? run(double{}) : run(float{});
  check_launch("mlp_divergence");
  return {to_a, to_w};
}

STABLE_TORCH_LIBRARY_IMPL(fastscore, CUDA, library) {
  library.impl("mlp_divergence_native", TORCH_BOX(&mlp_divergence));
  library.impl("mlp_divergence_gradient_native", TORCH_BOX(&mlp_divergence_gradient));
}

}  // namespace fastscore
