// Two standard normals from two random words: Box-Muller as ONE sequence of IEEE float32 operations, so that every
// backend gives the same bits. The sequence, and where its constants come from: box_muller in
// fastscore/_core/sequence.py. Compile with -ffp-contract=off; the fused multiply-adds are the explicit ones.
#pragma once

#include <cmath>
#include <cstring>

#include "philox.h"

namespace fastscore {

constexpr float kLog[] = {-0.1744469851255417f, 0.2873367965221405f,   -0.2990453541278839f,
                          0.33124786615371704f, -0.39913666248321533f, 0.5000414848327637f,
                          -0.6666837334632874f, 0.9999997615814209f,   -2.0f};
constexpr float kSin[] = {-0.0001951729936990887f, 0.008332177996635437f, -0.16666655242443085f};
constexpr float kCos[] = {2.4390450562350452e-05f, -0.0013886763481423259f, 0.04166662320494652f, -0.5f};
constexpr float kMinus2Ln2 = -0x1.62e43p+0f;
constexpr float kTurn = 0x1.921fb6p-32f;  // 2 pi / 2^34
constexpr uint32_t kSqrtHalfBits = 0x3F3504F3u;

FASTSCORE_HD float fused(float a, float b, float c) {  // a b + c, rounded once
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

FASTSCORE_HD float root(float a) {  // correctly rounded
#if defined(__CUDA_ARCH__)
  return __fsqrt_rn(a);
#else
  return __builtin_sqrtf(a);
#endif
}

FASTSCORE_HD uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

FASTSCORE_HD float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

template <int N>
FASTSCORE_HD float horner(float x, const float (&coefficients)[N]) {
  float value = coefficients[0];
  for (int i = 1; i < N; ++i) value = fused(x, value, coefficients[i]);
  return value;
}

// first = sqrt(-2 ln u) cos a, second = sqrt(-2 ln u) sin a; u from `radius_word`, a from `angle_word`.
FASTSCORE_HD void box_muller(uint32_t radius_word, uint32_t angle_word, float& first, float& second) {
  const float u = fused(static_cast<float>(static_cast<int32_t>(radius_word >> 1)), 0x1p-31f, 0x1p-32f);
  const uint32_t shifted = bits_of(u) - kSqrtHalfBits;
  const float e = static_cast<float>(static_cast<int32_t>(shifted) >> 23);
  const float f = float_of((shifted & 0x007FFFFFu) + kSqrtHalfBits) - 1.0f;
  const float log_poly[] = {kLog[0], kLog[1], kLog[2], kLog[3], kLog[4], kLog[5], kLog[6], kLog[7], kLog[8]};
  const float radius = root(fused(f, horner(f, log_poly), e * kMinus2Ln2));

  const float x = static_cast<float>(static_cast<int32_t>(angle_word << 2)) * kTurn;
  const float y = x * x;
  const float sin_poly[] = {kSin[0], kSin[1], kSin[2]}, cos_poly[] = {kCos[0], kCos[1], kCos[2], kCos[3]};
  const float sine = fused(x * y, horner(y, sin_poly), x);
  const float cosine = fused(y, horner(y, cos_poly), 1.0f);
  const bool odd = (angle_word & 0x40000000u) != 0;  // the quadrant: swap where odd, then the signs
  const uint32_t upper = angle_word & 0x80000000u, flip = (angle_word ^ (angle_word << 1)) & 0x80000000u;
  first = radius * float_of(bits_of(odd ? sine : cosine) ^ flip);
  second = radius * float_of(bits_of(odd ? cosine : sine) ^ upper);
}

}  // namespace fastscore
