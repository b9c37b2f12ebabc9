// The vector of this instruction set: 256 bits. U holds 32-bit words, or four 64-bit lanes; F eight floats.
using U = __m256i;
using F = __m256;
constexpr int kQuads = 4;  // 64-bit lanes: Philox works on the low half of each
alignas(64) constexpr uint64_t kLaneQuad[kQuads] = {0, 2, 1,
                                                    3};  // which quad lane i works on: unpack then gives them in order

inline U splat(uint32_t value) { return _mm256_set1_epi32(static_cast<int>(value)); }
inline U splat64(uint64_t value) { return _mm256_set1_epi64x(static_cast<long long>(value)); }
inline U load64(const uint64_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline U add64(U a, U b) { return _mm256_add_epi64(a, b); }
inline U multiply_low(U a, U b) { return _mm256_mul_epu32(a, b); }  // 32 x 32 to 64 bits in each lane
inline U high(U a) { return _mm256_srli_epi64(a, 32); }
inline U pair(U low, U high) { return _mm256_blend_epi32(low, _mm256_slli_epi64(high, 32), 0xAA); }
inline U xor3(U a, U b, U c) { return _mm256_xor_si256(_mm256_xor_si256(a, b), c); }
inline U xor2(U a, U b) { return _mm256_xor_si256(a, b); }
inline U and2(U a, U b) { return _mm256_and_si256(a, b); }
inline U add(U a, U b) { return _mm256_add_epi32(a, b); }
inline U subtract(U a, U b) { return _mm256_sub_epi32(a, b); }
template <int N>
inline U left(U a) {
  return _mm256_slli_epi32(a, N);
}
template <int N>
inline U right(U a) {
  return _mm256_srli_epi32(a, N);
}
template <int N>
inline U right_signed(U a) {
  return _mm256_srai_epi32(a, N);
}
inline F to_float(U a) { return _mm256_cvtepi32_ps(a); }
inline U bits(F a) { return _mm256_castps_si256(a); }
inline F floats(U a) { return _mm256_castsi256_ps(a); }
inline F splat(float value) { return _mm256_set1_ps(value); }
inline F multiply(F a, F b) { return _mm256_mul_ps(a, b); }
inline F subtract(F a, F b) { return _mm256_sub_ps(a, b); }
inline F fused(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline F root(F a) { return _mm256_sqrt_ps(a); }
// second where bit 30 of `word` is set, else first
inline F where_bit30(U word, F first, F second) { return _mm256_blendv_ps(first, second, floats(left<1>(word))); }
inline void store_unpacked(float* out, F a, F b) {
  _mm256_storeu_ps(out, _mm256_unpacklo_ps(a, b));
  _mm256_storeu_ps(out + 8, _mm256_unpackhi_ps(a, b));
}
inline void store_unpacked(uint32_t* out, U a, U b) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_unpacklo_epi64(a, b));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 8), _mm256_unpackhi_epi64(a, b));
}
constexpr int kHalfLanes = 8;
inline void half_to_float(const uint16_t* in, float* out) {
  _mm256_storeu_ps(out, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in))));
}
inline void float_to_half(const float* in, uint16_t* out) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_cvtps_ph(_mm256_loadu_ps(in), _MM_FROUND_TO_NEAREST_INT));
}

#include "vector_tiles.inl"
