// probe_dot for CUDA tensors.
#include "host.h"
#include "probe_dot.cuh"

namespace fastscore {

template <bool Colored, class T>
static void launch(const Form& f, Distribution distribution, const T* product, double* partial, int64_t chunks,
                   typename ComputeOf<T>::type* out, cudaStream_t stream) {
  const int64_t rows = f.count * f.batch;
  const bool sphere = distribution == Distribution::sphere;
  double* squares = sphere ? partial + rows * chunks : nullptr;
  const dim3 blocks(grid(rows), grid(chunks, 65535));
  if (distribution == Distribution::rademacher) {
    dot_signs<T, Colored><<<blocks, kThreads, 0, stream>>>(f, product, partial, out);
  } else {
    dot_normals<T, Colored><<<blocks, kThreads, 0, stream>>>(f, product, sphere, partial, squares, out);
  }
  check_launch("probe_dot");
  if (chunks == 1) return;
  add_chunks<<<grid(ceil_div(rows, kThreads)), kThreads, 0, stream>>>(partial, squares, rows, chunks, f.width, out);
  check_launch("probe_dot");
}

Tensor probe_dot(const Tensor& product, int64_t distribution, int64_t first, const std::vector<int64_t>& coloring,
                 int64_t seed, int64_t step, int64_t stream, int64_t offset, const std::optional<Tensor>& state,
                 const std::optional<Tensor>& index) {
  STD_TORCH_CHECK(product.dim() >= 2, "product must be [K, B, ...]");
  const OnDevice device(product);
  const Tensor in = torch::stable::contiguous(product);
  const Form f = form_of(in, first, coloring, seed, step, stream, offset, state, index);
  const bool is_double = in.scalar_type() == ScalarType::Double;
  const int64_t chunks = ceil_div(f.width, kChunk), rows = f.count * f.batch;
  Tensor out = empty({f.count, f.batch}, in, is_double ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32());
  if (out.numel() == 0) return out;
  if (f.width == 0) return torch::stable::zero_(out);
  const auto kind = static_cast<Distribution>(distribution);
  const int64_t sums = chunks == 1 ? 0 : (kind == Distribution::sphere ? 2 : 1) * rows * chunks;
  Tensor partial = empty({sums}, in, aoti_torch_dtype_float64());
  for_each_type(in, [&](auto type) {
    using T = decltype(type);
    const auto run = [&](auto colored) {
      launch<colored.value>(f, kind, static_cast<const T*>(in.const_data_ptr()), partial.mutable_data_ptr<double>(),
                            chunks, static_cast<typename ComputeOf<T>::type*>(out.mutable_data_ptr()), device.stream);
    };
    f.coloring.colors ? run(std::true_type{}) : run(std::false_type{});
  });
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(fastscore, CUDA, library) { library.impl("probe_dot_native", TORCH_BOX(&probe_dot)); }

}  // namespace fastscore
