// The noise of a block of one sample, or of many short samples. Included once for each instruction set (isa.h).
//
// A quad is one Philox call: four consecutive elements of a sample. Words are kept in the low halves of 64-bit lanes,
// where the 32 x 32 to 64-bit multiply reads them and leaves the product in place: no shuffle in ten rounds. The
// words of a quad are then paired into (r0, r2) and (r1, r3), so that one Box-Muller serves all four, and one unpack
// brings its results into the order of the elements.

constexpr int kChunk = 2 * kQuads;  // quads per pass: two independent chains of multiplies

#if FASTSCORE_SCALAR

inline void store_quad(uint32_t w[4], float* out) {
  box_muller(w[0], w[1], out[0], out[1]);
  box_muller(w[2], w[3], out[2], out[3]);
}
inline void store_quad(uint32_t w[4], uint32_t* out) {
  for (int i = 0; i < 4; ++i) out[i] = w[i];
}

template <class Out>
inline void scalar_quad(const Position& p, uint32_t quad, uint32_t sample, Out* out) {
  uint32_t words[4] = {quad, sample, p.step, p.stream};
  philox4x32(words, p.key0, p.key1);
  store_quad(words, out);
}

// `quads` quads of one sample from `quad` on: normals where Out is float, raw words where it is uint32_t. Writes up to
// kChunk - 1 quads more.
template <class Out>
inline void generate(const Position& p, uint32_t sample, uint32_t quad, int64_t quads, Out* out) {
  for (int64_t i = 0; i < quads; ++i) scalar_quad(p, static_cast<uint32_t>(quad + i), sample, out + 4 * i);
}

// The same for quads of any samples: quad[i] of sample[i].
template <class Out>
inline void generate(const Position& p, const uint32_t* sample, const uint32_t* quad, int64_t quads, Out* out) {
  for (int64_t i = 0; i < quads; ++i) scalar_quad(p, quad[i], sample[i], out + 4 * i);
}

#else

struct Keys {
  U first[kPhiloxRounds], second[kPhiloxRounds];
  explicit Keys(const Position& p) {
    for (int i = 0; i < kPhiloxRounds; ++i) {
      first[i] = splat64(static_cast<uint32_t>(p.key0 + i * kPhiloxW0));
      second[i] = splat64(static_cast<uint32_t>(p.key1 + i * kPhiloxW1));
    }
  }
};

struct Words {
  U w0, w1, w2, w3;
};

struct Paired {  // (r0, r2) and (r1, r3) of kQuads quads
  U radius, angle;
};

// Only the low half of each 64-bit lane means anything, before and after.
inline __attribute__((always_inline)) void rounds(Words& a, Words& b, const Keys& keys) {
  const U m0 = splat64(kPhiloxM0), m1 = splat64(kPhiloxM1);
#pragma GCC unroll 10
  for (int i = 0; i < kPhiloxRounds; ++i) {
    const U a0 = multiply_low(a.w0, m0), a1 = multiply_low(a.w2, m1);
    const U b0 = multiply_low(b.w0, m0), b1 = multiply_low(b.w2, m1);
    a = {xor3(high(a1), a.w1, keys.first[i]), a1, xor3(high(a0), a.w3, keys.second[i]), a0};
    b = {xor3(high(b1), b.w1, keys.first[i]), b1, xor3(high(b0), b.w3, keys.second[i]), b0};
  }
}

template <int N>
inline __attribute__((always_inline)) F horner(F x, const float (&coefficients)[N]) {
  F value = splat(coefficients[0]);
#pragma GCC unroll 10
  for (int i = 1; i < N; ++i) value = fused(x, value, splat(coefficients[i]));
  return value;
}

// box_muller of normal.h, in vectors.
inline __attribute__((always_inline)) void box_muller(U radius_word, U angle_word, F& first, F& second) {
  const F u = fused(to_float(right<1>(radius_word)), splat(0x1p-31f), splat(0x1p-32f));
  const U shifted = subtract(bits(u), splat(kSqrtHalfBits));
  const F e = to_float(right_signed<23>(shifted));
  const F f = subtract(floats(add(and2(shifted, splat(0x007FFFFFu)), splat(kSqrtHalfBits))), splat(1.0f));
  const F radius = root(fused(f, horner(f, kLog), multiply(e, splat(kMinus2Ln2))));

  const F x = multiply(to_float(left<2>(angle_word)), splat(kTurn));
  const F y = multiply(x, x);
  const F sine = fused(multiply(x, y), horner(y, kSin), x);
  const F cosine = fused(y, horner(y, kCos), splat(1.0f));
  const U sign = splat(0x80000000u);
  const U upper = and2(angle_word, sign), flip = and2(xor2(angle_word, left<1>(angle_word)), sign);
  first = multiply(radius, floats(xor2(bits(where_bit30(angle_word, cosine, sine)), flip)));
  second = multiply(radius, floats(xor2(bits(where_bit30(angle_word, sine, cosine)), upper)));
}

// What a pass of Philox leaves: raw words in the order of the elements, or, for normals, vectors of paired words.
inline __attribute__((always_inline)) void store_words(const Words& w, uint32_t* out) {
  store_unpacked(out, pair(w.w0, w.w1), pair(w.w2, w.w3));
}
inline __attribute__((always_inline)) void store_words(const Words& w, Paired* out) {
  out[0] = {pair(w.w0, w.w2), pair(w.w1, w.w3)};
}

inline uint32_t* at(uint32_t* out, int64_t quad) { return out + 4 * quad; }
inline Paired* at(Paired* out, int64_t quad) { return out + quad / kQuads; }

// The words of `quads` quads of one sample from `quad` on, and of up to kChunk - 1 more.
template <class Out>
inline void words(const Position& p, uint32_t sample, uint32_t quad, int64_t quads, Out* out) {
  const Keys keys(p);
  U index = add64(splat64(quad), load64(kLaneQuad));
  const U next = splat64(kQuads), sample_word = splat64(sample), step = splat64(p.step), stream = splat64(p.stream);
  for (int64_t i = 0; i < quads; i += kChunk) {
    Words a{index, sample_word, step, stream};
    index = add64(index, next);
    Words b{index, sample_word, step, stream};
    index = add64(index, next);
    rounds(a, b, keys);
    store_words(a, at(out, i));
    store_words(b, at(out, i + kQuads));
  }
}

// The same for quads of any samples: quad[i] of sample[i], readable up to the next multiple of kChunk.
template <class Out>
inline void words(const Position& p, const uint32_t* sample, const uint32_t* quad, int64_t quads, Out* out) {
  const Keys keys(p);
  const U step = splat64(p.step), stream = splat64(p.stream);
  for (int64_t i = 0; i < quads; i += kChunk) {
    uint64_t index[kChunk], samples[kChunk];
    for (int lane = 0; lane < kChunk; ++lane) {
      const int from = lane / kQuads * kQuads + static_cast<int>(kLaneQuad[lane % kQuads]);
      index[lane] = quad[i + from];
      samples[lane] = sample[i + from];
    }
    Words a{load64(index), load64(samples), step, stream};
    Words b{load64(index + kQuads), load64(samples + kQuads), step, stream};
    rounds(a, b, keys);
    store_words(a, at(out, i));
    store_words(b, at(out, i + kQuads));
  }
}

// Numbers of `quads` quads, at most kBlock / 4 + 2: raw words where Out is uint32_t, normals where it is float. Normals
// take two passes over a block, all of Philox and then all of Box-Muller: both are long chains of dependent
// instructions, and in short loops the processor works on several at once.
template <class Sample, class Quad>
inline void generate(const Position& p, Sample sample, Quad quad, int64_t quads, uint32_t* out) {
  words(p, sample, quad, quads, out);
}
template <class Sample, class Quad>
inline void generate(const Position& p, Sample sample, Quad quad, int64_t quads, float* out) {
  Paired paired[(kBlock + kSlack) / 4 / kQuads];
  words(p, sample, quad, quads, paired);
  for (int64_t i = 0; i < quads; i += kQuads) {
    F first, second;
    box_muller(paired[i / kQuads].radius, paired[i / kQuads].angle, first, second);
    store_unpacked(out + 4 * i, first, second);
  }
}

#endif
#undef FASTSCORE_SCALAR
