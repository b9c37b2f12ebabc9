// Transposes of matrices, tile by tile: those of vector_tiles.inl, or element by element. Included once for each
// instruction set (isa.h).
template <int N, class C>
inline void transpose_tile(std::integral_constant<int, N>, const C* from, int64_t from_stride, C* to,
                           int64_t to_stride) {
  for (int64_t i = 0; i < N; ++i)
    for (int64_t j = 0; j < N; ++j) to[j * to_stride + i] = from[i * from_stride + j];
}

template <int N, class C>
inline void transpose_by(const C* from, int64_t rows, int64_t columns, int64_t from_stride, C* to, int64_t to_stride) {
  const int64_t whole = rows / N * N, across = columns / N * N;
  for (int64_t i = 0; i < whole; i += N)
    for (int64_t j = 0; j < across; j += N)
      transpose_tile(std::integral_constant<int, N>{}, from + i * from_stride + j, from_stride, to + j * to_stride + i,
                     to_stride);
  if constexpr (N > 1) {  // what is left over, by smaller tiles
    constexpr int kLess = N > 4 ? 4 : 1;
    if (across < columns)
      transpose_by<kLess>(from + across, rows, columns - across, from_stride, to + across * to_stride, to_stride);
    if (whole < rows)
      transpose_by<kLess>(from + whole * from_stride, rows - whole, across, from_stride, to + whole, to_stride);
  }
}

// [rows, columns] to [columns, rows].
template <class C>
inline void transpose(const C* from, int64_t rows, int64_t columns, C* to) {
  transpose_by<sizeof(C) == 8 ? 4 : 8>(from, rows, columns, columns, to, rows);
}
