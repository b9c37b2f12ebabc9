// affine_step: x' = a x + sum_k b_k s_k + c z, of up to three tensors s_k, with or without noise.
#if FASTSCORE_KERNELS

#include "affine.inl"

template <class T, bool kNoise>
inline void affine_block(const AffineArguments& a, bool together, int64_t row, int64_t count, int64_t begin, int64_t n,
                         const float* noise) {
  for_each_row(row, count, begin, n, together, [&](int64_t r, int64_t start, int64_t m, int64_t offset) {
    using C = Compute<T>;
    alignas(64) C x_buffer[kBlock + kSlack], out_buffer[kBlock + kSlack], buffers[kMaxTensors][kBlock + kSlack];
    const int64_t at = r * a.rows.width + start;
    const C* s[kMaxTensors];
    C b[kMaxTensors];
    for (int k = 0; k < a.count; ++k) {
      s[k] = load(static_cast<const T*>(a.s[k]) + at, m, buffers[k]);
      b[k] = a.b[k].at<C>(r);
    }
    const C* x = load(static_cast<const T*>(a.x) + at, m, x_buffer);
    T* place = static_cast<T*>(a.out) + at;
    C* to = target(place, out_buffer);
    const C c = kNoise ? a.c.at<C>(r) : C(0);
    affine_of<kNoise>(a.count, m, a.a.at<C>(r), x, b, s, c, kNoise ? noise + offset : nullptr, to);
    store(to, m, place);
  });
}

template <class T>
void affine_step(const AffineArguments& a, int64_t from, int64_t to) {
  bool together = !a.a.many && !a.c.many;
  for (int k = 0; k < a.count; ++k) together = together && !a.b[k].many;
  if (a.c.data) {
    for_each_unit<float>(a.rows, a.draw, from, to,
                         [&](int64_t row, int64_t count, int64_t begin, int64_t n, const float* noise) {
                           affine_block<T, true>(a, together, row, count, begin, n, noise);
                         });
  } else {
    for_each_unit(a.rows, from, to, [&](int64_t row, int64_t count, int64_t begin, int64_t n) {
      affine_block<T, false>(a, together, row, count, begin, n, nullptr);
    });
  }
}

#else

#include "tensor.h"

namespace fastscore {
constexpr int kMaxTensors = 3;
constexpr int kLongBlock = 8 * kBlock;  // of elements that no buffer holds: they are neither made nor converted

struct AffineArguments {
  const void *x, *s[kMaxTensors];
  void* out;                    // may be x or an s
  int count;                    // of s
  PerRow a, b[kMaxTensors], c;  // c: without data where nothing is drawn
  Rows rows;
  Draw draw;
};
}  // namespace fastscore

#define FASTSCORE_OPERATOR "affine_step.cpp"
#include "each_isa.inl"

namespace fastscore {

using Optional = std::optional<Tensor>;

// The rows of a step without noise, of which only the memory's order matters: one row where the numbers are shared.
Rows dense(const AffineArguments& a, const Tensor& x) {
  bool many = a.a.many;
  for (int k = 0; k < a.count; ++k) many = many || a.b[k].many;
  const bool buffered = x.scalar_type() == ScalarType::Half || x.scalar_type() == ScalarType::BFloat16;
  const int64_t count = a.rows.count, width = a.rows.width, most = buffered ? kBlock : kLongBlock;
  return many ? Rows(count, width, 1, most) : Rows(1, count * width, 1, most);
}

Tensor affine_into(const Optional& out, const Tensor& x, const Optional* s, const Tensor& a, const Optional* b,
                   const Optional& c, const Draw& draw) {
  Layout layout(x, c ? kMaxChannels : kBlock);  // where nothing is drawn, channels in any number are walked as they lie
  const Tensor in = layout.input(x);
  Result result(layout, x, out);
  AffineArguments arguments{in.const_data_ptr(),
                            {},
                            result.data(),
                            0,
                            per_row(a, x, "a", Values::finite),
                            {},
                            c ? per_row(*c, x, "c", Values::not_negative) : PerRow{nullptr, false},
                            layout.rows,
                            draw};
  std::vector<Tensor> kept;  // copies in the layout of x
  for (int k = 0; k < kMaxTensors; ++k) {
    STD_TORCH_CHECK(s[k].has_value() == b[k].has_value() && (!s[k] || arguments.count == k),
                    "scores and b must be as many, and given from the first on");
    if (!s[k]) continue;
    check_like(*s[k], x, "scores");
    kept.push_back(layout.input(*s[k]));
    arguments.s[k] = kept.back().const_data_ptr();
    arguments.b[k] = per_row(*b[k], x, "b", Values::finite);
    ++arguments.count;
  }
  if (!c) arguments.rows = dense(arguments, x);
  for_each_type(x, [&](auto type) {
    in_parallel(arguments.rows, [&](int64_t from, int64_t to) {
      FASTSCORE_DISPATCH(affine_step<decltype(type)>, arguments, from, to);
    });
  });
  return result.finish();
}

Tensor affine_step(const Tensor& x, const Optional& s0, const Optional& s1, const Optional& s2, const Tensor& a,
                   const Optional& b0, const Optional& b1, const Optional& b2, const Optional& c, int64_t seed,
                   int64_t step, int64_t stream, int64_t offset, const Optional& state, const Optional& index) {
  const Optional s[] = {s0, s1, s2}, b[] = {b0, b1, b2};
  return affine_into(std::nullopt, x, s, a, b, c, draw(seed, step, stream, offset, state, index, x));
}

void affine_step_out(const Tensor& x, const Optional& s0, const Optional& s1, const Optional& s2, const Tensor& a,
                     const Optional& b0, const Optional& b1, const Optional& b2, const Optional& c, const Tensor& out,
                     int64_t seed, int64_t step, int64_t stream, int64_t offset, const Optional& state,
                     const Optional& index) {
  check_like(out, x, "out");
  const Optional s[] = {s0, s1, s2}, b[] = {b0, b1, b2};
  affine_into(out, x, s, a, b, c, draw(seed, step, stream, offset, state, index, x));
}

STABLE_TORCH_LIBRARY_IMPL(fastscore, CPU, library) {
  library.impl("affine_step_native", TORCH_BOX(&affine_step));
  library.impl("affine_step_out_native", TORCH_BOX(&affine_step_out));
}

}  // namespace fastscore

#endif
