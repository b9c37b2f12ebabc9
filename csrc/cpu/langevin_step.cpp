// langevin_step: x' = x + alpha/2 score + sqrt(alpha) z.
#if FASTSCORE_KERNELS

template <class T>
void langevin_step(const LangevinArguments& a, int64_t from, int64_t to) {
  using C = Compute<T>;
  const T *x = static_cast<const T*>(a.x), *score = static_cast<const T*>(a.score);
  T* out = static_cast<T*>(a.out);
  for_each_unit<float>(
      a.rows, a.draw, from, to, [&](int64_t row, int64_t count, int64_t begin, int64_t n, const float* noise) {
        for_each_row(row, count, begin, n, !a.alpha.many, [&](int64_t r, int64_t start, int64_t m, int64_t offset) {
          alignas(64) C x_buffer[kBlock + kSlack], score_buffer[kBlock + kSlack], out_buffer[kBlock + kSlack];
          const C alpha = a.alpha.at<C>(r), half = alpha / 2, spread = std::sqrt(alpha);
          const int64_t at = r * a.rows.width + start;
          const C* xs = load(x + at, m, x_buffer);
          const C* scores = load(score + at, m, score_buffer);
          C* to = target(out + at, out_buffer);
          const float* z = noise + offset;
#pragma GCC ivdep
          for (int64_t i = 0; i < m; ++i) to[i] = fma_(spread, C(z[i]), fma_(half, scores[i], xs[i]));
          store(to, m, out + at);
        });
      });
}

#else

#include "direct.h"
#include "tensor.h"

namespace fastscore {
struct LangevinArguments {
  const void *x, *score;
  void* out;  // may be x
  PerRow alpha;
  Rows rows;
  Draw draw;
};
}  // namespace fastscore

#define FASTSCORE_OPERATOR "langevin_step.cpp"
#include "each_isa.inl"

namespace fastscore {

Tensor step_into(const std::optional<Tensor>& out, const Tensor& x, const Tensor& score, const Tensor& alpha,
                 const Draw& draw) {
  check_like(score, x, "score");
  Layout layout(x);
  const Tensor in = layout.input(x), score_in = layout.input(score);
  Result result(layout, x, out);
  const LangevinArguments arguments{in.const_data_ptr(), score_in.const_data_ptr(),
                                    result.data(),       per_row(alpha, x, "alpha", Values::not_negative),
                                    layout.rows,         draw};
  for_each_type(x, [&](auto type) {
    in_parallel(layout.rows, [&](int64_t from, int64_t to) {
      FASTSCORE_DISPATCH(langevin_step<decltype(type)>, arguments, from, to);
    });
  });
  return result.finish();
}

Tensor langevin_step(const Tensor& x, const Tensor& score, const Tensor& alpha, int64_t seed, int64_t step,
                     int64_t stream, int64_t offset, const std::optional<Tensor>& state,
                     const std::optional<Tensor>& index) {
  return step_into(std::nullopt, x, score, alpha, draw(seed, step, stream, offset, state, index, x));
}

void langevin_step_out(const Tensor& x, const Tensor& score, const Tensor& alpha, const Tensor& out, int64_t seed,
                       int64_t step, int64_t stream, int64_t offset, const std::optional<Tensor>& state,
                       const std::optional<Tensor>& index) {
  check_like(out, x, "out");
  step_into(out, x, score, alpha, draw(seed, step, stream, offset, state, index, x));
}

// Whether `out` may be written while the other is read: they lie apart, or are the same.
static bool apart_or_same(const void* out, int64_t bytes, const void* other, int64_t other_bytes) {
  const auto a = reinterpret_cast<uintptr_t>(out), b = reinterpret_cast<uintptr_t>(other);
  return a + bytes <= b || b + other_bytes <= a || (a == b && bytes == other_bytes);
}

PyObject* langevin_step_direct(PyObject*, PyObject* const* arguments, Py_ssize_t) {
  Reader read(arguments);
  const int64_t type = read.integer();
  const void *x = read.address(), *score = read.address();
  void* out = read.address();
  const PerRow alpha = read.per_row();
  const Rows rows = read.rows();
  const LangevinArguments a{x, score, out, alpha, rows, read.draw()};
  if (!good(alpha, type, rows.count, Values::not_negative)) Py_RETURN_FALSE;
  const int64_t bytes = rows.count * rows.width * (type == 1 ? 8 : type == 0 ? 4 : 2);
  const int64_t alpha_bytes = (alpha.many ? rows.count : 1) * (type == 1 ? 8 : 4);
  if (!apart_or_same(out, bytes, x, bytes) || !apart_or_same(out, bytes, score, bytes) ||
      !apart_or_same(out, bytes, alpha.data, alpha_bytes))
    Py_RETURN_FALSE;
  for_each_type(type, [&](auto t) { FASTSCORE_DISPATCH(langevin_step<decltype(t)>, a, 0, a.rows.units()); });
  Py_RETURN_TRUE;
}

STABLE_TORCH_LIBRARY_IMPL(fastscore, CPU, library) {
  library.impl("langevin_step_native", TORCH_BOX(&langevin_step));
  library.impl("langevin_step_out_native", TORCH_BOX(&langevin_step_out));
}

}  // namespace fastscore

#endif
