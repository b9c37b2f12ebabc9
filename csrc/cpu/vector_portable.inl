// No vector instructions: noise.inl takes its scalar branch. Half-precision conversions by bits.
#define FASTSCORE_SCALAR 1
constexpr int kQuads = 4;
constexpr int kHalfLanes = 1;

inline void half_to_float(const uint16_t* in, float* out) {
  const uint32_t sign = (*in & 0x8000u) << 16, magnitude = *in & 0x7FFFu;
  uint32_t word;
  if (magnitude >= 0x7C00u) {
    word = 0x7F800000u | (magnitude & 0x3FFu) << 13;  // infinity, NaN
  } else if (magnitude >= 0x400u) {
    word = (magnitude << 13) + 0x38000000u;
  } else {
    word = bits_of(static_cast<float>(magnitude) * 0x1p-24f);  // subnormal or zero
  }
  *out = float_of(sign | word);
}

inline void float_to_half(const float* in, uint16_t* out) {  // to nearest, ties to even
  const uint32_t word = bits_of(*in), magnitude = word & 0x7FFFFFFFu;
  uint32_t half;
  if (magnitude > 0x7F800000u) {
    half = 0x7E00u;  // NaN
  } else if (magnitude >= 0x477FF000u) {
    half = 0x7C00u;  // rounds to infinity
  } else if (magnitude >= 0x38800000u) {
    half = (magnitude - 0x38000000u + 0xFFFu + (magnitude >> 13 & 1u)) >> 13;
  } else {
    half = bits_of(float_of(magnitude) + 0.5f) - 0x3F000000u;  // adding 1/2 rounds at 2^-24, the subnormal step
  }
  *out = static_cast<uint16_t>((word >> 16 & 0x8000u) | half);
}
