// The host's side of the CUDA kernels: tensors, streams and launches, on libtorch's stable ABI.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <vector>

#include "probes.cuh"

namespace fastscore {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The device of a tensor is the current one while this lives; kernels go to `stream`.
struct OnDevice {
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;

  explicit OnDevice(const Tensor& x) : guard(x.get_device_index()) {
    void* current = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &current));
    stream = static_cast<cudaStream_t>(current);
  }

  int64_t multiprocessors() const {
    int device = 0, count = 1;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
    return count;
  }
};

inline void check_launch(const char* name) {
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, name, ": ", cudaGetErrorString(error));
}

// A new contiguous tensor on the device of `like`; of its dtype, or of `dtype`.
inline Tensor empty(const std::vector<int64_t>& sizes, const Tensor& like,
                    std::optional<int32_t> dtype = std::nullopt) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * (sizes[i] > 1 ? sizes[i] : 1);
  int32_t type;
  aoti_torch_get_dtype(like.get(), &type);
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), dtype.value_or(type),
                               aoti_torch_device_type_cuda(), like.get_device_index(), &handle));
  return Tensor(handle);
}

// Calls f with a value of the element type of x.
template <class F>
void for_each_type(const Tensor& x, const F& f) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return f(float{});
    case ScalarType::Double:
      return f(double{});
    case ScalarType::BFloat16:
      return f(__nv_bfloat16{});
    case ScalarType::Half:
      return f(__half{});
    default:
      STD_TORCH_CHECK(false, "the tensor must be float16, bfloat16, float32 or float64");
  }
}

// For `tensor` [count, B, ...], which must be contiguous.
inline Form form_of(const Tensor& tensor, int64_t first, const std::vector<int64_t>& coloring, int64_t seed,
                    int64_t step, int64_t stream, int64_t offset, const std::optional<Tensor>& state,
                    const std::optional<Tensor>& index) {
  Form f{first, tensor.size(0), tensor.size(1), 1, 0, 0, {0, 1, 1, 0, 0, 0}, false, {}};
  for (int64_t i = 2; i < tensor.dim(); ++i) f.width *= tensor.size(i);
  const auto word = [](int64_t value) { return static_cast<uint32_t>(value); };
  if (!coloring.empty()) {
    const int64_t m = coloring[0];
    STD_TORCH_CHECK(coloring.size() == 6 && m >= 1 && m <= 32768 && coloring[1] >= 1 && coloring[2] >= 1 &&
                        f.width < (int64_t{1} << 32),
                    "a coloring is colors (at most 32768), width, height, a, b, e, for samples below 2^32 elements");
    f.coloring = {word(m),
                  word(coloring[1]),
                  word(coloring[2]),
                  word(coloring[3] % m),
                  word(coloring[4] % m),
                  word(coloring[5] % m)};
  }
  const int64_t m = f.coloring.probes_a_draw();
  f.first_draw = first / m;
  f.draws = f.count ? (first + f.count - 1) / m + 1 - f.first_draw : 0;
  f.fours = f.width % 4 == 0 && reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
  const uint64_t key = static_cast<uint64_t>(seed);
  f.position = {word(seed), static_cast<uint32_t>(key >> 32), word(step), word(stream), word(offset), nullptr, nullptr};
  if (state) {
    STD_TORCH_CHECK(state->scalar_type() == ScalarType::Long && state->numel() == 2 && state->is_contiguous() &&
                        state->get_device_index() == tensor.get_device_index(),
                    "state must be int64 of shape [2] on the device of the samples: seed and step");
    f.position.state = state->const_data_ptr<int64_t>();
  }
  if (index) {
    STD_TORCH_CHECK(index->scalar_type() == ScalarType::Long && index->numel() == f.batch && index->is_contiguous() &&
                        index->get_device_index() == tensor.get_device_index(),
                    "index must be int64 of shape [B] on the device of the samples");
    f.position.index = index->const_data_ptr<int64_t>();
  }
  return f;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// `n` as the size of a grid in x or y.
inline unsigned grid(int64_t n, int64_t most = 0x7FFFFFFF) {
  STD_TORCH_CHECK(n <= most, "the tensor has too many elements for one launch: ", n, " blocks");
  return static_cast<unsigned>(n);
}

}  // namespace fastscore
