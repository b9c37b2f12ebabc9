// exp and exp(x) - 1 for x <= 0, and the ELU made of them, for CPU and CUDA alike: ONE sequence of IEEE operations
// without a branch, so that loops become vectors and every backend has the same bits. Compile with -ffp-contract=off.
//
// x = n ln 2 + r with |r| <= ln 2 / 2; exp(r) - 1 = r + r^2 q(r) keeps its relative error where x is near 0; then
// exp(x) - 1 = 2^n (exp(r) - 1) + (2^n - 1), rounded once, in which 2^n - 1 is 0 for n = 0. q is the polynomial of
// least largest relative error of exp(r) - 1: 2.4e-10 in float32, 2.6e-19 in float64. Compared with wider arithmetic:
// both within 1 ulp in float32, expm1 within 1.2 ulp in float64.
#pragma once

#include "normal.h"

namespace fastscore {

template <class C>
struct Exponential;  // the numbers of one dtype

template <>
struct Exponential<float> {
  using Word = uint32_t;
  static constexpr float kLeast = -87.0f;  // below it exp is taken for 0: float32 has 1e-38 there
  static constexpr float kLog2e = 1.44269504f, kRound = 12582912.0f;  // 1.5 2^23: adding it rounds to an integer
  static constexpr float kLn2High = 0.693145752f, kLn2Low = 1.42860677e-6f;
  static constexpr int kMantissa = 23;
  static constexpr Word kOne = 0x3F800000u;
  static constexpr float kPoly[] = {0x1.a032c4p-13f, 0x1.6d723ep-10f, 0x1.11118ap-7f,
                                    0x1.5554b0p-5f,  0x1.555554p-3f,  0.5f};
};

template <>
struct Exponential<double> {
  using Word = uint64_t;
  static constexpr double kLeast = -708.0;
  static constexpr double kLog2e = 0x1.71547652b82fep+0, kRound = 0x1.8p52;
  static constexpr double kLn2High = 0x1.62e42feep-1, kLn2Low = 0x1.a39ef35793c76p-33;
  static constexpr int kMantissa = 52;
  static constexpr Word kOne = 0x3FF0000000000000u;
  static constexpr double kPoly[] = {0x1.1ee88249c807ep-29,
                                     0x1.af5ea820db61bp-26,
                                     0x1.27e53646c91a4p-22,
                                     0x1.71ddf863d3cf8p-19,
                                     0x1.a01a017baf1dep-16,
                                     0x1.a01a01afdd847p-13,
                                     0x1.6c16c16c1f0e8p-10,
                                     0x1.111111110f6c5p-7,
                                     0x1.555555555553ep-5,
                                     0x1.5555555555559p-3,
                                     0.5};
};

FASTSCORE_HD double fused(double a, double b, double c) {
#if defined(__CUDA_ARCH__)
  return __fma_rn(a, b, c);
#else
  return __builtin_fma(a, b, c);
#endif
}

FASTSCORE_HD uint64_t bits_of(double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

FASTSCORE_HD double float_of(uint64_t bits) {
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// `first` where `condition`, else `second`, both computed: of a plain ?: GCC makes a branch, since it may not compute
// what nobody asked for (-ftrapping-math), and a loop with one is no vector.
template <class C>
FASTSCORE_HD C choose(bool condition, C first, C second) {
  using Word = typename Exponential<C>::Word;
  const Word mask = condition ? ~Word(0) : Word(0);
  return float_of((bits_of(first) & mask) | (bits_of(second) & ~mask));
}

template <class C>
struct Reduced {
  C part, scale;  // exp(r) - 1 and 2^n
};

template <class C>
FASTSCORE_HD Reduced<C> reduced(C x) {
  using E = Exponential<C>;
  const C kept = x < E::kLeast ? E::kLeast : x;  // NaN stays
  const C shifted = fused(kept, E::kLog2e, E::kRound);
  const C n = shifted - E::kRound;
  const C r = fused(n, -E::kLn2Low, fused(n, -E::kLn2High, kept));
  C q = E::kPoly[0];
#pragma GCC unroll 16
  for (unsigned i = 1; i < sizeof(E::kPoly) / sizeof(C); ++i) q = fused(r, q, E::kPoly[i]);
  // the last bits of `shifted` are those of n: moved into the exponent, and that of 1 added
  const C scale = float_of((bits_of(shifted) << E::kMantissa) + E::kOne);
  return {fused(r * r, q, r), scale};
}

// exp(x) - 1 for x <= 0, or NaN.
template <class C>
FASTSCORE_HD C expm1_nonpositive(C x) {
  const Reduced<C> e = reduced(x);
  return fused(e.scale, e.part, e.scale - C(1));
}

// exp(x) for x <= 0, or NaN; 0 below Exponential<C>::kLeast.
template <class C>
FASTSCORE_HD C exp_nonpositive(C x) {
  const Reduced<C> e = reduced(x);
  return choose(x < Exponential<C>::kLeast, C(0), fused(e.scale, e.part, e.scale));
}

// x where x > 0, else exp(x) - 1. Zeros keep their sign.
template <class C>
FASTSCORE_HD C elu(C x) {
  return choose(x >= 0, x, expm1_nonpositive(x));
}

// The derivative of elu: 1 where x > 0, else exp(x).
template <class C>
FASTSCORE_HD C elu_slope(C x) {
  return choose(x > 0, C(1), exp_nonpositive(x));
}

}  // namespace fastscore
