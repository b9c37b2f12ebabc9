// The vector of this instruction set: 512 bits. U holds 32-bit words, or eight 64-bit lanes; F sixteen floats.
using U = __m512i;
using F = __m512;
constexpr int kQuads = 8;  // 64-bit lanes: Philox works on the low half of each
alignas(64) constexpr uint64_t kLaneQuad[kQuads] = {0, 4, 1, 5, 2,
                                                    6, 3, 7};  // which quad lane i works on: unpack gives them in order

inline U splat(uint32_t value) { return _mm512_set1_epi32(static_cast<int>(value)); }
inline U splat64(uint64_t value) { return _mm512_set1_epi64(static_cast<long long>(value)); }
inline U load64(const uint64_t* p) { return _mm512_loadu_si512(p); }
inline U add64(U a, U b) { return _mm512_add_epi64(a, b); }
inline U multiply_low(U a, U b) { return _mm512_mul_epu32(a, b); }  // 32 x 32 to 64 bits in each lane
inline U high(U a) { return _mm512_srli_epi64(a, 32); }
inline U pair(U low, U high) { return _mm512_mask_blend_epi32(0xAAAA, low, _mm512_slli_epi64(high, 32)); }
inline U xor3(U a, U b, U c) { return _mm512_ternarylogic_epi32(a, b, c, 0x96); }
inline U xor2(U a, U b) { return _mm512_xor_si512(a, b); }
inline U and2(U a, U b) { return _mm512_and_si512(a, b); }
inline U add(U a, U b) { return _mm512_add_epi32(a, b); }
inline U subtract(U a, U b) { return _mm512_sub_epi32(a, b); }
template <int N>
inline U left(U a) {
  return _mm512_slli_epi32(a, N);
}
template <int N>
inline U right(U a) {
  return _mm512_srli_epi32(a, N);
}
template <int N>
inline U right_signed(U a) {
  return _mm512_srai_epi32(a, N);
}
inline F to_float(U a) { return _mm512_cvtepi32_ps(a); }
inline U bits(F a) { return _mm512_castps_si512(a); }
inline F floats(U a) { return _mm512_castsi512_ps(a); }
inline F splat(float value) { return _mm512_set1_ps(value); }
inline F multiply(F a, F b) { return _mm512_mul_ps(a, b); }
inline F subtract(F a, F b) { return _mm512_sub_ps(a, b); }
inline F fused(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F root(F a) { return _mm512_sqrt_ps(a); }
// second where bit 30 of `word` is set, else first
inline F where_bit30(U word, F first, F second) {
  return _mm512_mask_blend_ps(_mm512_test_epi32_mask(word, splat(0x40000000u)), first, second);
}
inline void store_unpacked(float* out, F a, F b) {
  _mm512_storeu_ps(out, _mm512_unpacklo_ps(a, b));
  _mm512_storeu_ps(out + 16, _mm512_unpackhi_ps(a, b));
}
inline void store_unpacked(uint32_t* out, U a, U b) {
  _mm512_storeu_si512(out, _mm512_unpacklo_epi64(a, b));
  _mm512_storeu_si512(out + 16, _mm512_unpackhi_epi64(a, b));
}
constexpr int kHalfLanes = 16;
inline void half_to_float(const uint16_t* in, float* out) {
  _mm512_storeu_ps(out, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(in))));
}
inline void float_to_half(const float* in, uint16_t* out) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtps_ph(_mm512_loadu_ps(in), _MM_FROUND_TO_NEAREST_INT));
}

#include "vector_tiles.inl"
