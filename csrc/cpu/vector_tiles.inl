// Transposes of N x N elements in the vectors that AVX2 and AVX-512 both have: two halves are two independent chains.
inline void transpose_tile(std::integral_constant<int, 4>, const float* from, int64_t from_stride, float* to,
                           int64_t to_stride) {
  __m128 row[4];
  for (int i = 0; i < 4; ++i) row[i] = _mm_loadu_ps(from + i * from_stride);
  _MM_TRANSPOSE4_PS(row[0], row[1], row[2], row[3]);
  for (int i = 0; i < 4; ++i) _mm_storeu_ps(to + i * to_stride, row[i]);
}

// Rows i and i + 4 side by side, each half then a 4 x 4 transpose.
inline void transpose_tile(std::integral_constant<int, 8>, const float* from, int64_t from_stride, float* to,
                           int64_t to_stride) {
  for (int half = 0; half < 8; half += 4) {
    __m256 row[4];
    for (int i = 0; i < 4; ++i) {
      const float* at = from + i * from_stride + half;
      row[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(at)), _mm_loadu_ps(at + 4 * from_stride), 1);
    }
    const __m256 a = _mm256_unpacklo_ps(row[0], row[1]), b = _mm256_unpackhi_ps(row[0], row[1]),
                 c = _mm256_unpacklo_ps(row[2], row[3]), d = _mm256_unpackhi_ps(row[2], row[3]);
    to += half * to_stride;
    _mm256_storeu_ps(to, _mm256_shuffle_ps(a, c, 0x44));
    _mm256_storeu_ps(to + to_stride, _mm256_shuffle_ps(a, c, 0xEE));
    _mm256_storeu_ps(to + 2 * to_stride, _mm256_shuffle_ps(b, d, 0x44));
    _mm256_storeu_ps(to + 3 * to_stride, _mm256_shuffle_ps(b, d, 0xEE));
  }
}

inline void transpose_tile(std::integral_constant<int, 4>, const double* from, int64_t from_stride, double* to,
                           int64_t to_stride) {
  for (int half = 0; half < 4; half += 2) {
    __m256d row[2];
    for (int i = 0; i < 2; ++i) {
      const double* at = from + i * from_stride + half;
      row[i] = _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(at)), _mm_loadu_pd(at + 2 * from_stride), 1);
    }
    to += half * to_stride;
    _mm256_storeu_pd(to, _mm256_unpacklo_pd(row[0], row[1]));
    _mm256_storeu_pd(to + to_stride, _mm256_unpackhi_pd(row[0], row[1]));
  }
}
