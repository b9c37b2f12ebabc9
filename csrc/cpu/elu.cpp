// elu: y = x where x > 0, else exp(x) - 1, and its gradient g (y > 0 ? 1 : y + 1). Tensors are walked in the order of
// memory, whatever their strides are.
#if FASTSCORE_KERNELS

template <class T>
void elu_block(const EluArguments& a, int64_t from, int64_t to) {
  using C = Compute<T>;
  for (int64_t begin = from; begin < to; begin += kBlock) {
    const int64_t n = begin + kBlock < to ? kBlock : to - begin;
    alignas(64) C x_buffer[kBlock + kSlack], out_buffer[kBlock + kSlack];
    const C* x = load(static_cast<const T*>(a.x) + begin, n, x_buffer);
    T* place = static_cast<T*>(a.out) + begin;
    C* y = target(place, out_buffer);
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) y[i] = elu(x[i]);
    store(y, n, place);
  }
}

template <class T>
void elu_gradient_block(const EluArguments& a, int64_t from, int64_t to) {
  using C = Compute<T>;
  for (int64_t begin = from; begin < to; begin += kBlock) {
    const int64_t n = begin + kBlock < to ? kBlock : to - begin;
    alignas(64) C g_buffer[kBlock + kSlack], x_buffer[kBlock + kSlack], out_buffer[kBlock + kSlack];
    const C* g = load(static_cast<const T*>(a.upstream) + begin, n, g_buffer);
    const C* y = load(static_cast<const T*>(a.x) + begin, n, x_buffer);
    T* place = static_cast<T*>(a.out) + begin;
    C* to_x = target(place, out_buffer);
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) to_x[i] = g[i] * choose(y[i] > 0, C(1), y[i] + C(1));
    store(to_x, n, place);
  }
}

#else

#include "../exponential.h"
#include "dense.h"

namespace fastscore {
struct EluArguments {
  const void *upstream, *x;  // x: of the gradient, the output
  void* out;
};
}  // namespace fastscore

#define FASTSCORE_OPERATOR "elu.cpp"
#include "each_isa.inl"

namespace fastscore {

Tensor elu_forward(const Tensor& x) {
  const Tensor out = torch::stable::empty_like(x), in = laid_like(out, x);
  const EluArguments arguments{nullptr, in.const_data_ptr(), out.mutable_data_ptr()};
  for_each_type(x, [&](auto type) {
    in_parallel(x.numel(),
                [&](int64_t from, int64_t to) { FASTSCORE_DISPATCH(elu_block<decltype(type)>, arguments, from, to); });
  });
  return out;
}

Tensor elu_gradient(const Tensor& upstream, const Tensor& y) {
  check_like(upstream, y, "upstream");
  const Tensor out = torch::stable::empty_like(y), in = laid_like(out, y), g = laid_like(out, upstream);
  const EluArguments arguments{g.const_data_ptr(), in.const_data_ptr(), out.mutable_data_ptr()};
  for_each_type(y, [&](auto type) {
    in_parallel(y.numel(), [&](int64_t from, int64_t to) {
      FASTSCORE_DISPATCH(elu_gradient_block<decltype(type)>, arguments, from, to);
    });
  });
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(fastscore, CPU, library) {
  library.impl("elu_native", TORCH_BOX(&elu_forward));
  library.impl("elu_gradient_native", TORCH_BOX(&elu_gradient));
}

}  // namespace fastscore

#endif
