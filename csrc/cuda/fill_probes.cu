// fill_probes for CUDA tensors.
#include "fill_probes.cuh"
#include "host.h"

namespace fastscore {

template <bool Colored, class T>
static void launch(const Form& f, Distribution distribution, T* out, cudaStream_t stream) {
  const int64_t rows = f.draws * f.batch, quads = ceil_div(f.width, 4);
  if (distribution == Distribution::rademacher) {
    const int64_t calls = rows * ceil_div(f.width, kSigns);
    fill_signs<T, Colored><<<grid(ceil_div(calls, kThreads)), kThreads, 0, stream>>>(f, out);
  } else if (distribution == Distribution::gaussian) {
    const int64_t parts = ceil_div(quads, 4 * kThreads);  // four quads per thread share what leads up to them
    const dim3 blocks(grid(rows), static_cast<unsigned>(parts < 65535 ? parts : 65535));
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
    f.coloring.colors ? launch<true>(f, kind, to, device.stream) : launch<false>(f, kind, to, device.stream);
  });
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(fastscore, CUDA, library) { library.impl("fill_probes_native", TORCH_BOX(&fill_probes)); }

}  // namespace fastscore
