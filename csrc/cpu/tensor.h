// Tensors in and out, on libtorch's stable ABI.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <vector>

#include "rows.h"

namespace fastscore {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Tensor empty(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, int32_t dtype) {
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(),
                                                         strides.data(), dtype, aoti_torch_device_type_cpu(), 0,
                                                         &handle));
  return Tensor(handle);
}

inline Tensor empty(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, const Tensor& like) {
  int32_t dtype;
  aoti_torch_get_dtype(like.get(), &dtype);
  return empty(sizes, strides, dtype);
}

inline Tensor empty_contiguous(const std::vector<int64_t>& sizes, const Tensor& like) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * (sizes[i] > 1 ? sizes[i] : 1);
  return empty(sizes, strides, like);
}

// How the rows of a tensor [B, ...] lie in memory: contiguous, channels_last, or anything else, which is copied.
struct Layout {
  std::vector<int64_t> sizes, strides;
  bool direct;   // the tensor's own memory can be walked
  int64_t most;  // channels that are walked in channels_last order; where there are more they are copied
  Rows rows;

  explicit Layout(const Tensor& x, int64_t most = kMaxChannels)
      : sizes(x.sizes().begin(), x.sizes().end()),
        strides(x.strides().begin(), x.strides().end()),
        direct(true),
        most(most),
        rows(1, 0) {
    STD_TORCH_CHECK(!sizes.empty(), "a tensor must have a batch dimension");
    int64_t width = 1;
    for (size_t i = 1; i < sizes.size(); ++i) width *= sizes[i];
    int64_t channels = 1;
    if (!x.is_contiguous()) {
      channels = sizes.size() > 2 ? sizes[1] : 1;
      direct = channels > 1 && channels <= most && channels_last();
      if (!direct) channels = 1;
    }
    rows = Rows(sizes[0], width, channels);
  }

  bool same(const Tensor& other) const {
    if (!direct) return false;
    if (rows.channels == 1) return other.is_contiguous();
    return Layout(other, most).rows.channels == rows.channels;
  }

  // `x` itself where its memory lies like this, else a copy that does.
  Tensor input(const Tensor& x) const {
    if (same(x)) return x;
    if (rows.channels == 1) return torch::stable::contiguous(x);
    Tensor copy = empty(sizes, strides, x);
    torch::stable::copy_(copy, x);
    return copy;
  }

 private:
  bool channels_last() const {
    int64_t expected = sizes[1];
    if (strides[1] != 1) return false;
    for (size_t i = sizes.size() - 1; i >= 2; --i) {
      if (sizes[i] != 1 && strides[i] != expected) return false;
      expected *= sizes[i];
    }
    return sizes[0] == 1 || strides[0] == expected;
  }
};

// A new tensor like x, or `out`, written through memory of the layout's kind.
class Result {
 public:
  Result(const Layout& layout, const Tensor& x, const std::optional<Tensor>& out = std::nullopt)
      : result_(out             ? *out
                : layout.direct ? empty(layout.sizes, layout.strides, x)
                                : torch::stable::empty_like(x)),
        memory_(layout.same(result_) ? result_ : scratch(layout, x)) {}
  void* data() const { return memory_.mutable_data_ptr(); }
  Tensor finish() {
    if (memory_.get() != result_.get()) torch::stable::copy_(result_, memory_);
    return result_;
  }

 private:
  static Tensor scratch(const Layout& layout, const Tensor& x) {
    return layout.direct ? empty(layout.sizes, layout.strides, x) : empty_contiguous(layout.sizes, x);
  }
  Tensor result_, memory_;
};

inline void check_like(const Tensor& tensor, const Tensor& x, const char* name) {
  STD_TORCH_CHECK(tensor.scalar_type() == x.scalar_type() && tensor.numel() == x.numel() && tensor.dim() == x.dim(),
                  name, " must have the dtype and shape of the samples");
}

// A number, or one for each row, in the dtype that is computed with. `tensor` must outlive it.
inline PerRow per_row(const Tensor& tensor, const Tensor& x, const char* name, Values wanted = Values::any) {
  const ScalarType type = x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const int64_t dim = tensor.dim(), n = tensor.numel();
  STD_TORCH_CHECK(tensor.scalar_type() == type && dim <= 1 && tensor.is_contiguous() && (dim == 0 || n == x.size(0)),
                  name, " must be float32 (float64 beside float64), contiguous, of shape [] or [B]");
  const void* data = tensor.const_data_ptr();
  if (wanted != Values::any) {
    const bool good = type == ScalarType::Double ? all_good(static_cast<const double*>(data), n, wanted)
                                                 : all_good(static_cast<const float*>(data), n, wanted);
    const char* bound = wanted == Values::finite     ? ""
                        : wanted == Values::positive ? " and greater than 0"
                                                     : " and at least 0";
    STD_TORCH_CHECK(good, name, " must be finite", bound, " everywhere");
  }
  return {data, dim == 1};
}

// A number for each channel, the size of x's dimension 1, in the dtype that is computed with. `tensor` must outlive it.
inline PerChannel per_channel(const Tensor& tensor, const Tensor& x, const char* name) {
  const ScalarType type = x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const int64_t dim = tensor.dim();
  STD_TORCH_CHECK(tensor.scalar_type() == type && tensor.is_contiguous() && x.dim() >= 2 && (dim == 1 || dim == 2) &&
                      tensor.size(dim - 1) == x.size(1) && (dim == 1 || tensor.size(0) == x.size(0)),
                  name, " must be float32 (float64 beside float64), contiguous, of shape [C] or [B, C]");
  return {tensor.const_data_ptr(), dim == 2, x.size(1)};
}

inline Draw draw(int64_t seed, int64_t step, int64_t stream, int64_t offset, const std::optional<Tensor>& state,
                 const std::optional<Tensor>& index, int64_t rows) {
  if (state) {
    STD_TORCH_CHECK(state->scalar_type() == ScalarType::Long && state->numel() == 2 && state->is_contiguous(),
                    "state must be int64 of shape [2]: seed and step");
    seed = state->const_data_ptr<int64_t>()[0];
    step = state->const_data_ptr<int64_t>()[1];
  }
  if (index) {
    STD_TORCH_CHECK(index->scalar_type() == ScalarType::Long && index->numel() == rows && index->is_contiguous(),
                    "index must be int64 of shape [B]");
  }
  const uint64_t key = static_cast<uint64_t>(seed);
  return {{static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32), static_cast<uint32_t>(step),
           static_cast<uint32_t>(stream)},
          static_cast<uint32_t>(offset),
          index ? index->const_data_ptr<int64_t>() : nullptr};
}

inline Draw draw(int64_t seed, int64_t step, int64_t stream, int64_t offset, const std::optional<Tensor>& state,
                 const std::optional<Tensor>& index, const Tensor& x) {
  return draw(seed, step, stream, offset, state, index, x.size(0));
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
      return f(BFloat16{});
    case ScalarType::Half:
      return f(Half{});
    default:
      STD_TORCH_CHECK(false, "the tensor must be float16, bfloat16, float32 or float64");
  }
}

// Calls work(from, to) on the units of `rows`, over threads where there are enough elements.
template <class F>
void in_parallel(const Rows& rows, const F& work) {
  constexpr int64_t kGrain = 16384;  // elements; below, starting a thread costs more than it saves
  const int64_t units = rows.units();
  if (units == 0) return;
  const int64_t grain = (kGrain + rows.elements_a_unit() - 1) / rows.elements_a_unit();
  if (units <= grain) return work(int64_t{0}, units);
  torch::stable::parallel_for(0, units, grain, work);
}

}  // namespace fastscore
