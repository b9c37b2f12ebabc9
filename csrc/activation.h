// Activations of an MLP: the value, and the first and second derivative, for CPU and CUDA alike.
#pragma once

#include "normal.h"

namespace fastscore {

enum class Activation : int64_t { tanh = 0, sigmoid = 1, softplus = 2, silu = 3, elu = 4 };

// exp(x) for x <= 0, without a branch, so that loops become vectors: x = n ln 2 + r, |r| <= ln 2 / 2, and a polynomial
// of degree 7 in r, whose truncation (5e-9) is below float32's rounding. Below -87, where float32 ends, exp(-87).
FASTSCORE_HD float exp_negative(float x) {
  const float kept = x < -87.0f ? -87.0f : x;
  const float shifted = fused(kept, 1.44269504f, 12582912.0f);  // 1.5 2^23: rounds to the nearest integer
  const float n = shifted - 12582912.0f;
  const float r = fused(n, -1.42860677e-6f, fused(n, -0.693145752f, kept));  // ln 2 in two parts
  const float poly[] = {1.98412698e-4f, 1.38888889e-3f, 8.33333333e-3f, 4.16666667e-2f,
                        1.66666667e-1f, 0.5f,           1.0f,           1.0f};
  const float scale = float_of(static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23);
  return horner(r, poly) * scale;
}
FASTSCORE_HD double exp_negative(double x) { return exp(x); }

FASTSCORE_HD float magnitude(float x) { return fabsf(x); }
FASTSCORE_HD double magnitude(double x) { return fabs(x); }

// phi'(a) and phi''(a).
template <class C>
struct Slopes {
  C first, second;
};

template <Activation A, class C>
FASTSCORE_HD Slopes<C> slopes(C a) {
  constexpr C one = 1;
  const C e = exp_negative(A == Activation::tanh ? -2 * magnitude(a) : -magnitude(a));
  if (A == Activation::elu) return {a > 0 ? one : e, a > 0 ? C(0) : e};
  const C inverse = one / (one + e), bell = e * inverse * inverse;  // of the sigmoid, its slope s (1 - s)
  if (A == Activation::tanh) {
    const C t = (one - e) * inverse;
    return {4 * bell, -8 * bell * (a < 0 ? -t : t)};
  }
  const C s = a < 0 ? e * inverse : inverse;  // the sigmoid
  const C curve = bell * (one - 2 * s);
  if (A == Activation::sigmoid) return {bell, curve};
  if (A == Activation::softplus) return {s, bell};
  return {s + a * bell, 2 * bell + a * curve};  // silu: a s
}

}  // namespace fastscore
