// scale_shift: y = scale_c x + shift_c.
#if FASTSCORE_KERNELS

template <class T>
void scale_shift(const ScaleShiftArguments& a, int64_t from, int64_t to) {
  using C = Compute<T>;
  for_each_unit(a.rows, from, to, [&](int64_t row, int64_t count, int64_t begin, int64_t n) {
    for_each_row(row, count, begin, n, false, [&](int64_t r, int64_t start, int64_t m, int64_t) {
      alignas(64) C x_buffer[kBlock + kSlack], out_buffer[kBlock + kSlack];
      const C* x = load(static_cast<const T*>(a.x) + r * a.rows.width + start, m, x_buffer);
      T* place = static_cast<T*>(a.out) + r * a.rows.width + start;
      C* y = target(place, out_buffer);
      const C *scale = a.scale.at<C>(r), *shift = a.shift.at<C>(r);
      for_each_channel(a.rows, a.scale.channels, start, m,
                       [&](int64_t i, int64_t c) { y[i] = fma_(scale[c], x[i], shift[c]); });
      store(y, m, place);
    });
  });
}

#else

#include "tensor.h"

namespace fastscore {
struct ScaleShiftArguments {
  const void* x;
  void* out;
  PerChannel scale, shift;
  Rows rows;
};
}  // namespace fastscore

#define FASTSCORE_OPERATOR "scale_shift.cpp"
#include "each_isa.inl"

namespace fastscore {

Tensor scale_shift(const Tensor& x, const Tensor& scale, const Tensor& shift) {
  Layout layout(x);
  const Tensor in = layout.input(x);
  Result out(layout, x);
  const ScaleShiftArguments arguments{in.const_data_ptr(), out.data(), per_channel(scale, x, "scale"),
                                      per_channel(shift, x, "shift"), layout.rows};
  for_each_type(x, [&](auto type) {
    in_parallel(layout.rows, [&](int64_t from, int64_t to) {
      FASTSCORE_DISPATCH(scale_shift<decltype(type)>, arguments, from, to);
    });
  });
  return out.finish();
}

STABLE_TORCH_LIBRARY_IMPL(fastscore, CPU, library) { library.impl("scale_shift_native", TORCH_BOX(&scale_shift)); }

}  // namespace fastscore

#endif
