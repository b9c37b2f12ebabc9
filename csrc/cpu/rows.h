// A tensor [B, ...] as rows, one per sample; where a draw stands in the random sequence; and the types of elements.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../normal.h"
#include "isa.h"

namespace fastscore {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};
// What is computed with: float64 for float64, else float32.
template <class T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

constexpr int kBlock = 1024;  // elements whose noise is made at once: it stays in the first-level cache
constexpr int kSlack = 96;    // what the noise of a block may write beyond its end
constexpr int kMaxChannels = 64;

// `count` rows of `width` elements, each contiguous in memory; where channels > 1, in channels_last order: the element
// m of a row in memory is element (m % channels) * (width / channels) + m / channels of the sample.
struct Rows {
  int64_t count, width, channels;
  int64_t block, blocks;  // a row is worked on in `blocks` blocks of `block` elements
  int64_t group;          // or `group` short rows at once

  Rows(int64_t count, int64_t width, int64_t channels = 1, int64_t most = kBlock)
      : count(count), width(width), channels(channels) {
    block = most / channels * channels;
    blocks = width == 0 ? 0 : (width + block - 1) / block;
    group = width > 64 || channels > 1 || width == 0 ? 1 : kBlock / 4 / ((width + 3) / 4);
  }
  bool grouped() const { return group > 1; }
  int64_t units() const { return grouped() ? (count + group - 1) / group : count * blocks; }
  int64_t elements_a_unit() const { return grouped() ? group * width : (width < block ? width : block); }
};

struct Position {  // of one draw in the random sequence, without the counter's first two words
  uint32_t key0, key1, step, stream;
};

struct Draw {
  Position position;
  uint32_t first;        // the global index of the first sample
  const int64_t* index;  // or of every sample
  uint32_t sample(int64_t row) const { return static_cast<uint32_t>(index ? index[row] : first + row); }
};

// A number for all rows, or one for each.
struct PerRow {
  const void* data;
  bool many;
  template <class C>
  C at(int64_t row) const {
    return static_cast<const C*>(data)[many ? row : 0];
  }
};

// A number for each channel, [C], or for each channel of each row, [B, C].
struct PerChannel {
  const void* data;
  bool many;
  int64_t channels;
  template <class C>
  const C* at(int64_t row) const {
    return static_cast<const C*>(data) + (many ? row * channels : 0);
  }
};

enum class Values { any, finite, not_negative, positive };

template <class C>
bool all_good(const C* values, int64_t n, Values wanted) {
  bool good = true;
  for (int64_t i = 0; i < n; ++i)
    good &= std::isfinite(values[i]) &&
            (wanted == Values::finite || (wanted == Values::positive ? values[i] > 0 : values[i] >= 0));
  return good;
}

// Calls segment(row, begin, n, offset) for the rows of one unit (see for_each_unit); `offset` is from the unit's start.
// Where the rows need not be told apart, once for all of them.
template <class Segment>
inline void for_each_row(int64_t row, int64_t count, int64_t begin, int64_t n, bool together, const Segment& segment) {
  if (count == 1 || together) return segment(row, begin, n, int64_t{0});
  const int64_t width = n / count;
  for (int64_t i = 0; i < count; ++i) segment(row + i, begin, width, i * width);
}

}  // namespace fastscore
