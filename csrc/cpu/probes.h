// What fill_probes and probe_dot share on the CPU: the walk over draws, samples and blocks.
#pragma once

#include <algorithm>

#include "../probes.h"
#include "tensor.h"

namespace fastscore {

struct ProbesArguments {
  void* out = nullptr;            // fill_probes: [count, B, D]
  const void* product = nullptr;  // probe_dot: [count, B, D]
  double* sums = nullptr;         // probe_dot: [count, B, blocks]
  double* squares = nullptr;      // sphere: [draws, B, blocks], sums of z^2
  int64_t first, count;           // probes
  Coloring coloring;
  int64_t width;                 // D
  std::vector<uint16_t> colors;  // of the D elements, the same in every sample and draw: made once
  Rows rows;                     // of one draw: B rows of normals, or of words where the probes are signs
  Draw draw;

  // For `tensor` [count, B, ...].
  ProbesArguments(const Tensor& tensor, int64_t batch, Distribution distribution, int64_t first, int64_t count,
                  const std::vector<int64_t>& form, const Draw& draw)
      : first(first), count(count), coloring{0, 1, 1, 0, 0, 0}, width(1), rows(0, 0), draw(draw) {
    for (int64_t i = 2; i < tensor.dim(); ++i) width *= tensor.size(i);
    const bool signs = distribution == Distribution::rademacher;
    rows = Rows(batch, signs && width ? kSigns / 32 * ((width + kSigns - 1) / kSigns) : width);
    if (form.empty()) return;
    STD_TORCH_CHECK(form.size() == 6 && form[0] >= 1 && form[0] <= 32768 && form[1] >= 1 && form[2] >= 1 &&
                        width < (int64_t{1} << 32),
                    "a coloring is colors (at most 32768), width, height, a, b, e, for samples below 2^32 elements");
    const auto word = [](int64_t value) { return static_cast<uint32_t>(value); };
    const int64_t m = form[0];
    coloring = {word(m), word(form[1]), word(form[2]), word(form[3] % m), word(form[4] % m), word(form[5] % m)};
    colors.resize(width);
    Colors walk(coloring, 0);
    for (uint16_t& color : colors) color = static_cast<uint16_t>(walk.next());
  }

  int64_t first_draw() const { return first / coloring.probes_a_draw(); }
  int64_t draws() const { return count ? (first + count - 1) / coloring.probes_a_draw() + 1 - first_draw() : 0; }
  Draw draw_of(int64_t j) const {
    Draw result = draw;
    result.position.step += static_cast<uint32_t>(first_draw() + j);
    return result;
  }
  int64_t squares_of(int64_t j, int64_t row) const { return (j * rows.count + row) * rows.blocks; }
  double scale(int64_t j, int64_t row) const {  // what makes the length of draw j sqrt(D)
    double sum = 0;
    for (int64_t block = 0; block < rows.blocks; ++block) sum += squares[squares_of(j, row) + block];
    return std::sqrt(static_cast<double>(width) / sum);
  }

  // Calls probe(k, color) for the probes of draw `first_draw() + j`; k counts from `first`.
  template <class F>
  void for_each_probe(int64_t j, const F& probe) const {
    const int64_t m = coloring.probes_a_draw(), start = (first_draw() + j) * m - first;
    for (int64_t color = std::max<int64_t>(0, -start); color < m && start + color < count; ++color)
      probe(start + color, static_cast<uint32_t>(color));
  }
};

// Calls work(j, from, to) on the units of every draw, over threads where there are enough elements.
template <class F>
void in_parallel(const ProbesArguments& a, const F& work) {
  constexpr int64_t kGrain = 16384;  // elements
  const int64_t units = a.rows.units(), all = units * a.draws();
  if (all == 0) return;
  const int64_t elements = std::max<int64_t>(1, a.rows.count * a.width * a.coloring.probes_a_draw() / units);
  const int64_t grain = (kGrain + elements - 1) / elements;
  const auto range = [&](int64_t from, int64_t to) {
    while (from < to) {
      const int64_t begin = from % units, n = std::min(units - begin, to - from);
      work(from / units, begin, begin + n);
      from += n;
    }
  };
  if (all <= grain) return range(0, all);
  torch::stable::parallel_for(0, all, grain, range);
}

}  // namespace fastscore
