// langevin_step: x' = x + step_size/2 score + sqrt(step_size) z.
#if FASTSCORE_KERNELS

#include "affine.inl"

template <class T>
void langevin_step(const LangevinArguments& a, int64_t from, int64_t to) {
  using C = Compute<T>;
  const T *x = static_cast<const T*>(a.x), *score = static_cast<const T*>(a.score);
  T* out = static_cast<T*>(a.out);
  for_each_unit<float>(
      a.rows, a.draw, from, to, [&](int64_t row, int64_t count, int64_t begin, int64_t n, const float* noise) {
        for_each_row(row, count, begin, n, !a.step_size.many, [&](int64_t r, int64_t start, int64_t m, int64_t offset) {
          alignas(64) C x_buffer[kBlock + kSlack], score_buffer[kBlock + kSlack], out_buffer[kBlock + kSlack];
          const C step_size = a.step_size.at<C>(r), half = step_size / 2, spread = std::sqrt(step_size);
          const int64_t at = r * a.rows.width + start;
          const C* xs = load(x + at, m, x_buffer);
          const C* scores = load(score + at, m, score_buffer);
          C* to = target(out + at, out_buffer);
          affine<1, true, false>(m, C(1), xs, &half, &scores, spread, noise + offset, to);
          store(to, m, out + at);
        });
      });
}

#else

#include "tensor.h"

namespace fastscore {
struct LangevinArguments {
  const void *x, *score;
  void* out;  // may be x
  PerRow step_size;
  Rows rows;
  Draw draw;
};
}  // namespace fastscore

#define FASTSCORE_OPERATOR "langevin_step.cpp"
#include "each_isa.inl"

namespace fastscore {

Tensor step_into(const std::optional<Tensor>& out, const Tensor& x, const Tensor& score, const Tensor& step_size,
                 const Draw& draw) {
  check_like(score, x, "score");
  Layout layout(x);
  const Tensor in = layout.input(x), score_in = layout.input(score);
  Result result(layout, x, out);
  const LangevinArguments arguments{in.const_data_ptr(), score_in.const_data_ptr(),
                                    result.data(),       per_row(step_size, x, "step_size", Values::not_negative),
                                    layout.rows,         draw};
  for_each_type(x, [&](auto type) {
    in_parallel(layout.rows, [&](int64_t from, int64_t to) {
      FASTSCORE_DISPATCH(langevin_step<decltype(type)>, arguments, from, to);
    });
  });
  return result.finish();
}

Tensor langevin_step(const Tensor& x, const Tensor& score, const Tensor& step_size, int64_t seed, int64_t step,
                     int64_t stream, int64_t offset, const std::optional<Tensor>& state,
                     const std::optional<Tensor>& index) {
  return step_into(std::nullopt, x, score, step_size, draw(seed, step, stream, offset, state, index, x));
}

void langevin_step_out(const Tensor& x, const Tensor& score, const Tensor& step_size, const Tensor& out, int64_t seed,
                       int64_t step, int64_t stream, int64_t offset, const std::optional<Tensor>& state,
                       const std::optional<Tensor>& index) {
  check_like(out, x, "out");
  step_into(out, x, score, step_size, draw(seed, step, stream, offset, state, index, x));
}

STABLE_TORCH_LIBRARY_IMPL(fastscore, CPU, library) {
  library.impl("langevin_step_native", TORCH_BOX(&langevin_step));
  library.impl("langevin_step_out_native", TORCH_BOX(&langevin_step_out));
}

}  // namespace fastscore

#endif
