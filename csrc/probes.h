// The probes' contract, for CPU and CUDA alike: signs, colours and what a probe's number stands for. In words:
// fastscore/ops/fill_probes.py.
#pragma once

#include "normal.h"

namespace fastscore {

constexpr int kSigns = 128;  // in one Philox call: bit k of its word w is the sign of element 32 w + k, set for -1

enum class Distribution : int64_t { rademacher = 0, gaussian = 1, sphere = 2 };

// Bit 31 set where element k of a word's 32 is -1: to be xor-ed onto a float.
FASTSCORE_HD uint32_t sign_bit(uint32_t word, int k) { return word << (31 - k) & 0x80000000u; }

// The colour of element d of a sample is (a x + b y + e c) mod colors; see Coloring in fill_probes.py. colors is at
// most 2^15 and a, b, e are below it, so that no sum overflows. colors = 0: no colouring.
struct Coloring {
  uint32_t colors, width, height, a, b, e;

  FASTSCORE_HD uint32_t probes_a_draw() const { return colors ? colors : 1; }
  FASTSCORE_HD uint32_t of(uint32_t d) const {
    const uint32_t x = d % width, row = d / width, y = row % height, c = row / height;
    return (a * (x % colors) + b * (y % colors) + e * (c % colors)) % colors;
  }
};

// The colours of consecutive elements, without a division in most of them.
struct Colors {
  Coloring coloring;
  uint32_t d, x, color;

  FASTSCORE_HD Colors(const Coloring& coloring, uint32_t d)
      : coloring(coloring), d(d), x(d % coloring.width), color(coloring.of(d)) {}
  FASTSCORE_HD uint32_t next() {  // of element d, and on to d + 1
    const uint32_t now = color;
    ++d;
    if (++x < coloring.width) {
      color += coloring.a;
      if (color >= coloring.colors) color -= coloring.colors;
    } else {
      x = 0;
      color = coloring.of(d);
    }
    return now;
  }
};

}  // namespace fastscore
