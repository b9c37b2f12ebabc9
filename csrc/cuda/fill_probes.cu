// fill_probes for CUDA tensors.
#include "fill_probes.cuh"
#include "host.h"

namespace fastscore {

// Half the warps that a device holds at once: so many are wanted before one is given more than one piece of work.
static int64_t warps(int64_t multiprocessors) { return 32 * multiprocessors; }

// Among how many blocks the colours of a draw are divided: more than one where the draws alone make too few warps.
static int64_t parts(const Form& f, int64_t of_draws, int64_t multiprocessors) {
  const int64_t colors = f.coloring.probes_a_draw(), wanted = ceil_div(warps(multiprocessors), of_draws);
  return wanted < colors ? wanted : colors;
}

template <bool Colored, class T>
static void launch(const Form& f, Distribution distribution, T* out, int64_t multiprocessors, cudaStream_t stream) {
  const int64_t rows = f.draws * f.batch, quads = ceil_div(f.width, 4);
  if (distribution == Distribution::rademacher) {
    const int64_t calls = rows * ceil_div(f.width, kSigns);
    const int64_t parted = parts(f, calls, multiprocessors), share = ceil_div(calls * parted, warps(multiprocessors));
    const int64_t of_a_warp = share < kWarp ? share : kWarp;
    const dim3 blocks(grid(ceil_div(grid(calls), kWarps * of_a_warp)), static_cast<unsigned>(parted));
    fill_signs<T, Colored><<<blocks, kThreads, 0, stream>>>(f, out, static_cast<uint32_t>(of_a_warp));
  } else if (distribution == Distribution::gaussian) {
    // four quads per thread share what leads up to them, where that leaves enough threads
    const int64_t parted = parts(f, rows * ceil_div(quads, kWarp), multiprocessors);
    const bool few = rows * parted * ceil_div(quads, 4 * kWarp) < warps(multiprocessors);
    const int64_t across = ceil_div(quads, few ? kThreads : 4 * kThreads);
    const dim3 blocks(grid(rows), static_cast<unsigned>(across < 65535 ? across : 65535),
                      static_cast<unsigned>(parted));
    fill_normals<T, Colored, false><<<blocks, kThreads, 0, stream>>>(f, out);
  } else {
    fill_normals<T, false, true><<<grid(rows), kThreads, 0, stream>>>(f, out);
  }
  check_launch("fill_probes");
}

Tensor fill_probes(const Tensor& like, int64_t distribution, int64_t first, int64_t count,
                   const std::vector<int64_t>& coloring, int64_t seed, int64_t step, int64_t stream, int64_t offset,
                   const std::optional<Tensor>& state, const std::optional<Tensor>& index) {
  const OnDevice device(like);
  std::vector<int64_t> sizes(like.sizes().begin(), like.sizes().end());
  sizes.insert(sizes.begin(), count);
  Tensor out = empty(sizes, like);
  const Form f = form_of(out, first, coloring, seed, step, stream, offset, state, index);
  if (out.numel() == 0) return out;
  for_each_type(out, [&](auto type) {
    auto* to = static_cast<decltype(type)*>(out.mutable_data_ptr());
    const auto kind = static_cast<Distribution>(distribution);
    const auto run = [&](auto colored) { launch<colored.value>(f, kind, to, device.multiprocessors(), device.stream); };
    f.coloring.colors ? run(std::true_type{}) : run(std::false_type{});
  });
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(fastscore, CUDA, library) { library.impl("fill_probes_native", TORCH_BOX(&fill_probes)); }

}  // namespace fastscore
