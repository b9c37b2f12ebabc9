// Walks rows of Rademacher signs. Included once for each instruction set, by the operators that draw them.

// Calls visit(row, begin, m, words) for the units from .. to of `rows`, whose elements are words of 32 signs: m
// elements, at most kBlock, from element `begin` (a multiple of 32) of sample `row` on.
template <class Visit>
inline void for_each_signs(const Rows& rows, const Draw& draw, int64_t width, int64_t from, int64_t to,
                           const Visit& visit) {
  for_each_unit<uint32_t>(
      rows, draw, from, to, [&](int64_t row, int64_t count, int64_t begin, int64_t n, const uint32_t* words) {
        const int64_t words_a_row = n / count;
        for (int64_t i = 0; i < count; ++i, words += words_a_row) {
          const int64_t first = 32 * begin, last = std::min(width, first + 32 * words_a_row);
          for (int64_t start = first; start < last; start += kBlock)
            visit(row + i, start, std::min<int64_t>(kBlock, last - start), words + (start - first) / 32);
        }
      });
}

// +1 and -1 as they are stored.
template <class T>
struct Signed;
template <>
struct Signed<float> {
  using Bits = uint32_t;
  static constexpr Bits one = 0x3F800000u;
};
template <>
struct Signed<double> {
  using Bits = uint64_t;
  static constexpr Bits one = 0x3FF0000000000000u;
};
template <>
struct Signed<BFloat16> {
  using Bits = uint16_t;
  static constexpr Bits one = 0x3F80u;
};
template <>
struct Signed<Half> {
  using Bits = uint16_t;
  static constexpr Bits one = 0x3C00u;
};

// m signs, 32 a word.
template <class T>
inline void store_signs(const uint32_t* words, int64_t m, T* out) {
  using Bits = typename Signed<T>::Bits;
  constexpr int shift = 8 * static_cast<int>(sizeof(Bits)) - 32;
  const auto value = [](uint32_t word, int k) {
    const uint32_t sign = sign_bit(word, k);
    const Bits bits = Signed<T>::one | (shift < 0 ? static_cast<Bits>(sign >> (shift < 0 ? -shift : 0))
                                                  : static_cast<Bits>(sign) << (shift < 0 ? 0 : shift));
    T result;
    memcpy(&result, &bits, sizeof result);
    return result;
  };
  int64_t i = 0;
  for (; i + 32 <= m; i += 32)
    for (int k = 0; k < 32; ++k) out[i + k] = value(words[i / 32], k);
  for (int k = 0; i + k < m; ++k) out[i + k] = value(words[i / 32], k);
}

// `value` with its sign changed where the sign is -1.
inline float flipped(float value, uint32_t word, int k) { return float_of(bits_of(value) ^ sign_bit(word, k)); }
inline double flipped(double value, uint32_t word, int k) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  bits ^= static_cast<uint64_t>(sign_bit(word, k)) << 32;
  memcpy(&value, &bits, sizeof bits);
  return value;
}

// `value` where the two colours are the same, else 0; without a branch, so that loops become vectors.
template <class T>
inline T where_same(uint32_t color, uint32_t wanted, T value) {
  using Bits = typename Signed<T>::Bits;
  Bits bits;
  memcpy(&bits, &value, sizeof bits);
  bits &= static_cast<Bits>(-static_cast<Bits>(color == wanted));
  memcpy(&value, &bits, sizeof bits);
  return value;
}
