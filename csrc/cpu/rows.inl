// Walks a tensor [B, ...] in blocks, with or without random numbers for each. Included once for each instruction set
// (isa.h).

// Conversions between what is stored and what is computed with: float32, or float64 for float64.
inline const float* load(const float* in, int64_t, float*) { return in; }
inline const double* load(const double* in, int64_t, double*) { return in; }
inline const float* load(const BFloat16* in, int64_t n, float* buffer) {
  for (int64_t i = 0; i < n; ++i) buffer[i] = float_of(static_cast<uint32_t>(in[i].bits) << 16);
  return buffer;
}
inline const float* load(const Half* in, int64_t n, float* buffer) {
  const uint16_t* words = reinterpret_cast<const uint16_t*>(in);
  int64_t i = 0;
  for (; i + kHalfLanes <= n; i += kHalfLanes) half_to_float(words + i, buffer + i);
  if (i < n) {
    uint16_t rest[kHalfLanes] = {};
    memcpy(rest, words + i, (n - i) * sizeof(uint16_t));
    half_to_float(rest, buffer + i);  // buffers have room for a whole vector
  }
  return buffer;
}

inline float fma_(float a, float b, float c) { return __builtin_fmaf(a, b, c); }  // a b + c, rounded once
inline double fma_(double a, double b, double c) { return __builtin_fma(a, b, c); }

// Where results are written before `store`: the output itself, or a buffer where they are still to be rounded.
inline float* target(float* out, float*) { return out; }
inline double* target(double* out, double*) { return out; }
inline float* target(BFloat16*, float* buffer) { return buffer; }
inline float* target(Half*, float* buffer) { return buffer; }

inline void store(const float*, int64_t, float*) {}
inline void store(const double*, int64_t, double*) {}
inline void store(const float* in, int64_t n, BFloat16* out) {  // to nearest, ties to even
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t word = bits_of(in[i]);
    const uint32_t rounded = (word + 0x7FFFu + (word >> 16 & 1u)) >> 16;
    out[i].bits = static_cast<uint16_t>((word & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded);
  }
}
inline void store(const float* in, int64_t n, Half* out) {
  uint16_t* words = reinterpret_cast<uint16_t*>(out);
  int64_t i = 0;
  for (; i + kHalfLanes <= n; i += kHalfLanes) float_to_half(in + i, words + i);
  if (i < n) {
    uint16_t rest[kHalfLanes];
    float_to_half(in + i, rest);
    memcpy(words + i, rest, (n - i) * sizeof(uint16_t));
  }
}

// Numbers for the elements begin .. begin + n of a row in memory order: `n` of them, and up to kSlack more.
template <class Out>
inline const Out* row_block(const Rows& rows, const Draw& draw, int64_t row, int64_t begin, int64_t n, Out* buffer,
                            Out* other) {
  const uint32_t sample = draw.sample(row);
  if (rows.channels == 1) {
    generate(draw.position, sample, static_cast<uint32_t>(begin / 4), (n + 3) / 4, buffer);
    return buffer;
  }
  const int64_t pixels = rows.width / rows.channels, first = begin / rows.channels, count = n / rows.channels;
  for (int64_t c = 0; c < rows.channels; ++c) {
    const int64_t start = c * pixels + first, quad = start / 4, skip = start % 4;
    generate(draw.position, sample, static_cast<uint32_t>(quad), (skip + count + 3) / 4, buffer);
    for (int64_t i = 0; i < count; ++i) other[i * rows.channels + c] = buffer[skip + i];
  }
  return other;
}

// Calls visit(row, count, begin, n) for the units from .. to of `rows`: `n` elements in memory order that start `begin`
// elements into row `row`; they are part of that row (count = 1), or `count` whole rows.
template <class Visit>
inline void for_each_unit(const Rows& rows, int64_t from, int64_t to, const Visit& visit) {
  for (int64_t unit = from; unit < to; ++unit) {
    if (rows.grouped()) {
      const int64_t row = unit * rows.group, left = rows.count - row, count = rows.group < left ? rows.group : left;
      visit(row, count, int64_t{0}, count * rows.width);
    } else {
      const int64_t row = unit / rows.blocks, begin = unit % rows.blocks * rows.block;
      visit(row, int64_t{1}, begin, begin + rows.block < rows.width ? rows.block : rows.width - begin);
    }
  }
}

// The same with the random numbers of each unit, visit(row, count, begin, n, numbers): raw words where Out is uint32_t,
// normals where it is float.
template <class Out, class Visit>
inline void for_each_unit(const Rows& rows, const Draw& draw, int64_t from, int64_t to, const Visit& visit) {
  alignas(64) Out buffer[kBlock + kSlack], other[kBlock + kSlack];
  if (!rows.grouped()) {
    for_each_unit(rows, from, to, [&](int64_t row, int64_t count, int64_t begin, int64_t n) {
      visit(row, count, begin, n, row_block(rows, draw, row, begin, n, buffer, other));
    });
    return;
  }
  const int64_t quads = (rows.width + 3) / 4;
  uint32_t quad[kBlock / 4 + kSlack], sample[kBlock / 4 + kSlack] = {};
  for_each_unit(rows, from, to, [&](int64_t row, int64_t count, int64_t begin, int64_t n) {
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t q = 0; q < quads; ++q) {
        quad[i * quads + q] = static_cast<uint32_t>(q);
        sample[i * quads + q] = draw.sample(row + i);
      }
    }
    generate(draw.position, sample, quad, count * quads, buffer);
    const bool whole = rows.width == 4 * quads;
    for (int64_t i = 0; i < count && !whole; ++i)
      for (int64_t j = 0; j < rows.width; ++j) other[i * rows.width + j] = buffer[i * 4 * quads + j];
    visit(row, count, begin, n, static_cast<const Out*>(whole ? buffer : other));
  });
}

// Calls f(i, channel) for the n elements from `begin` on of a row [channels, ...] in memory order; i counts from 0.
template <class F>
inline void for_each_channel(const Rows& rows, int64_t channels, int64_t begin, int64_t n, const F& f) {
  if (rows.channels > 1) {  // channels_last: a block is made of whole pixels
    for (int64_t i = 0; i < n; i += channels)
      for (int64_t c = 0; c < channels; ++c) f(i + c, c);
    return;
  }
  const int64_t pixels = rows.width / channels;
  for (int64_t i = 0; i < n;) {
    const int64_t channel = (begin + i) / pixels, last = (channel + 1) * pixels - begin, stop = last < n ? last : n;
    for (; i < stop; ++i) f(i, channel);
  }
}
