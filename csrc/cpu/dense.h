// Tensors of any strides, whose memory is walked from end to end.
#pragma once

#include "tensor.h"

namespace fastscore {

inline bool same_strides(const Tensor& a, const Tensor& b) {
  if (a.numel() == 0) return true;
  for (int64_t i = 0; i < a.dim(); ++i)
    if (a.size(i) != 1 && a.stride(i) != b.stride(i)) return false;
  return true;
}

// Whether an image's channels come last in memory, [B, H, W, C].
inline bool is_channels_last(const Tensor& x) {
  const int64_t expected[] = {x.size(1) * x.size(2) * x.size(3), 1, x.size(1) * x.size(3), x.size(1)};
  for (int64_t i = 0; i < 4; ++i)
    if (x.size(i) != 1 && x.stride(i) != expected[i]) return false;
  return true;
}

// `x` itself where its elements lie as those of `like` do, which is without gaps; else a copy that does.
inline Tensor laid_like(const Tensor& like, const Tensor& x) {
  if (same_strides(like, x)) return x;
  Tensor copy = torch::stable::empty_like(like);
  torch::stable::copy_(copy, x);
  return copy;
}

// Calls work(from, to) on 0 .. elements, over threads where there are enough of them.
template <class F>
void in_parallel(int64_t elements, const F& work) {
  constexpr int64_t kGrain = 16384;
  if (elements == 0) return;
  if (elements <= kGrain) return work(int64_t{0}, elements);
  torch::stable::parallel_for(0, elements, kGrain, work);
}

}  // namespace fastscore
