// a x + sum_k b_k s_k + c z on the elements of a block: what affine_step computes, and langevin_step, which is a case
// of it. Each term is added by one fma in this order, so that with a = 1 both have the same bits. Included once for
// each instruction set (isa.h).

// `kScaled`: whether there is an a, else it is 1. `to` may be x or an s_k.
template <int K, bool kNoise, bool kScaled, class C>
inline void affine(int64_t m, C a, const C* x, const C* b, const C* const* s, C c, const float* z, C* to) {
  const C b0 = K > 0 ? b[0] : C(0), b1 = K > 1 ? b[1] : C(0), b2 = K > 2 ? b[2] : C(0);
  const C *s0 = K > 0 ? s[0] : x, *s1 = K > 1 ? s[1] : x, *s2 = K > 2 ? s[2] : x;
#pragma GCC ivdep
  for (int64_t i = 0; i < m; ++i) {
    C value = kScaled ? a * x[i] : x[i];
    if (K > 0) value = fma_(b0, s0[i], value);
    if (K > 1) value = fma_(b1, s1[i], value);
    if (K > 2) value = fma_(b2, s2[i], value);
    if (kNoise) value = fma_(c, C(z[i]), value);
    to[i] = value;
  }
}

// The same for a number of s_k, 0 to 3, that is known at run time.
template <bool kNoise, class C>
inline void affine_of(int count, int64_t m, C a, const C* x, const C* b, const C* const* s, C c, const float* z,
                      C* to) {
  switch (count) {
    case 0:
      return affine<0, kNoise, true>(m, a, x, b, s, c, z, to);
    case 1:
      return affine<1, kNoise, true>(m, a, x, b, s, c, z, to);
    case 2:
      return affine<2, kNoise, true>(m, a, x, b, s, c, z, to);
    default:
      return affine<3, kNoise, true>(m, a, x, b, s, c, z, to);
  }
}
