// instance_norm_plus: out = phi(gamma (h + alpha t) + beta), h the instance norm of x, t the channels' normalised
// means, phi the identity or ELU; and its gradient. The equations: fastscore/ops/instance_norm_plus.py.
//
// A sample is one strip of C interleaved channels (channels_last), or C strips of one channel (contiguous); or, where
// the planes of channels are small, strips of several planes, which are turned into interleaved channels on the way in
// and back on the way out. A strip is walked in rows, each some whole pixels, so that the numbers of a channel stand at
// the same places in every row; sums are vectors of a row's width, in float32 over a chunk that stays in the
// first-level cache, in float64 beyond. Strips are cut into spans of a fixed size, on which threads may work: the same
// bits, however many there are.
#if FASTSCORE_KERNELS

#include "instance_norm_plus.inl"

#else

#include <algorithm>
#include <memory>

#include "../exponential.h"
#include "tensor.h"

namespace fastscore {

constexpr int64_t kNormRow = 128;      // elements of a row, where channels are fewer
constexpr int64_t kNormWidest = 1024;  // channels of a strip; with more, channels_last is copied
constexpr int64_t kNormChunk = 4096;   // elements, at most
constexpr int64_t kNormSpan = 32768;   // elements, about
constexpr int64_t kNormPlane = 1024;   // bytes of a small plane, at most, as computed with
constexpr int64_t kNormPlanes = 2048;  // elements of the planes that are turned at once, about

struct NormArguments {
  int64_t batch, channels, pixels;
  bool last;            // channels_last
  bool turned;          // strips of several planes
  int64_t width, row;   // channels of a strip; elements of a row
  int64_t chunk;        // elements
  int64_t span, spans;  // pixels of a span; spans of a strip
  const void *x, *upstream;
  void *out, *mean, *rstd;  // out: of the gradient, that of x
  PerChannel gamma, alpha, beta;
  void *to_gamma, *to_alpha, *to_beta;
  double eps;
  double* numbers;  // of a sample: [2 spans, C] sums, the normalised means and their r [C + 1], coefficients [4, C]
  int64_t stride;   // from one sample's numbers to the next's; 0 where samples take turns
  double* sums_of(int64_t sample) const { return numbers + sample * stride; }
  double* shares_of(int64_t sample) const { return sums_of(sample) + 2 * spans * channels; }
  template <class C>
  C* coefficients_of(int64_t sample) const {
    return reinterpret_cast<C*>(shares_of(sample) + channels + 1);
  }
  int64_t numbers_a_sample() const { return (2 * spans + 5) * channels + 1; }
  int64_t strips() const { return (channels + width - 1) / width; }
  int64_t units_a_sample() const { return strips() * spans; }
};

template <class T, bool E>
struct NormKind {
  using Element = T;
  static constexpr bool elu = E;
};

}  // namespace fastscore

#define FASTSCORE_OPERATOR "instance_norm_plus.cpp"
#include "each_isa.inl"

namespace fastscore {

// Numbers for each channel, in the dtype that is computed with; the rows of [B, C] may have gaps between them.
static PerChannel channels_of(const Tensor& given, const Tensor& x, const char* name, Tensor& kept) {
  const int64_t dim = given.dim();
  const bool dense = dim == 0 || given.size(dim - 1) <= 1 || given.stride(dim - 1) == 1;
  kept = dense ? given : torch::stable::contiguous(given);
  const ScalarType type = x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(kept.scalar_type() == type && (dim == 1 || dim == 2) && kept.size(dim - 1) == x.size(1) &&
                      (dim == 1 || kept.size(0) == x.size(0)),
                  name, " must be float32 (float64 beside float64), of shape [C] or [B, C]");
  return {kept.const_data_ptr(), dim == 2, dim == 2 ? kept.stride(0) : x.size(1)};
}

struct NormInputs {
  Tensor gamma, alpha, beta;
};

// How many small planes are turned at once: about the same number each time, whole vectors of them.
static int64_t planes_at_once(int64_t channels, int64_t pixels) {
  constexpr int64_t kVector = 16;
  const int64_t most = std::clamp(kNormPlanes / pixels / kVector * kVector, kVector, kNormWidest);
  const int64_t turns = (channels + most - 1) / most, even = (channels + turns - 1) / turns;
  return std::min({channels, most, (even + kVector - 1) / kVector * kVector});
}

static NormArguments arguments_of(const Tensor& x, const Layout& layout, const Tensor& gamma, const Tensor& alpha,
                                  const Tensor& beta, double eps, NormInputs& kept) {
  NormArguments a{};
  STD_TORCH_CHECK(x.dim() >= 2 && x.size(1) >= 2, "x must be [B, C, ...] with at least 2 channels");
  a.batch = x.size(0);
  a.channels = x.size(1);
  a.pixels = layout.rows.width / a.channels;
  STD_TORCH_CHECK(a.pixels >= 2, "x must have at least 2 pixels");
  a.last = layout.rows.channels > 1;
  const int64_t bytes = x.scalar_type() == ScalarType::Double ? 8 : 4;
  a.turned = !a.last && a.pixels * bytes <= kNormPlane;
  a.width = a.last ? a.channels : a.turned ? planes_at_once(a.channels, a.pixels) : 1;
  a.row = a.width * std::min(std::max<int64_t>(kNormRow / a.width, 1), a.pixels);
  a.chunk = a.row * std::max<int64_t>(kNormChunk / a.row, 1);
  const int64_t pixels_a_chunk = a.chunk / a.width;
  a.span = pixels_a_chunk * std::max<int64_t>(kNormSpan / a.chunk, 1);
  a.spans = (a.pixels + a.span - 1) / a.span;
  a.gamma = channels_of(gamma, x, "gamma", kept.gamma);
  a.alpha = channels_of(alpha, x, "alpha", kept.alpha);
  a.beta = channels_of(beta, x, "beta", kept.beta);
  a.eps = eps;
  return a;
}

// Calls f with the NormKind.
template <class F>
static void for_norm_kind(const Tensor& x, int64_t activation, const F& f) {
  STD_TORCH_CHECK(activation == 0 || activation == 1, "activation must be 0 (none) or 1 (ELU)");
  for_each_type(
      x, [&](auto type) { activation ? f(NormKind<decltype(type), true>{}) : f(NormKind<decltype(type), false>{}); });
}

// Calls first(a, from, to) and last(a, from, to) on units, before and between them before(a, from, to) and
// middle(a, from, to) on samples: a sample after the other, whose memory is then still near; or, where samples are too
// few for the threads, unit by unit.
template <class Before, class First, class Middle, class Last>
static void in_parallel(const NormArguments& given, const Before& before, const First& first, const Middle& middle,
                        const Last& last) {
  constexpr int64_t kGrain = 16384;  // elements; below, starting a thread costs more than it saves
  NormArguments a = given;
  const int64_t units = a.units_a_sample(), size = a.channels * a.pixels, threads = torch::stable::get_num_threads();
  const auto whole = [&](int64_t from, int64_t to) {
    const std::unique_ptr<double[]> numbers(new double[a.numbers_a_sample()]);
    NormArguments own = a;
    own.numbers = numbers.get();
    for (int64_t sample = from; sample < to; ++sample) {
      before(own, sample, sample + 1);
      first(own, sample * units, (sample + 1) * units);
      middle(own, sample, sample + 1);
      last(own, sample * units, (sample + 1) * units);
    }
  };
  const int64_t grain = (kGrain + size - 1) / size;
  if (threads == 1 || a.batch * size <= kGrain) return whole(0, a.batch);
  if (a.batch >= 2 * threads || units == 1) return torch::stable::parallel_for(0, a.batch, grain, whole);
  a.stride = a.numbers_a_sample();
  const std::unique_ptr<double[]> numbers(new double[a.batch * a.stride]);
  a.numbers = numbers.get();
  const int64_t unit_grain = (kGrain * units + size - 1) / size;
  before(a, 0, a.batch);
  torch::stable::parallel_for(0, a.batch * units, unit_grain, [&](int64_t from, int64_t to) { first(a, from, to); });
  middle(a, 0, a.batch);
  torch::stable::parallel_for(0, a.batch * units, unit_grain, [&](int64_t from, int64_t to) { last(a, from, to); });
}

std::tuple<Tensor, Tensor, Tensor> instance_norm_plus(const Tensor& x, const Tensor& gamma, const Tensor& alpha,
                                                      const Tensor& beta, double eps, int64_t activation) {
  Layout layout(x, kNormWidest);
  NormInputs kept;
  NormArguments a = arguments_of(x, layout, gamma, alpha, beta, eps, kept);
  const Tensor in = layout.input(x), mean = empty({a.batch, a.channels}, {a.channels, 1}, kept.gamma),
               rstd = empty({a.batch, a.channels}, {a.channels, 1}, kept.gamma);
  Result out(layout, x);
  a.x = in.const_data_ptr();
  a.out = out.data();
  a.mean = mean.mutable_data_ptr();
  a.rstd = rstd.mutable_data_ptr();
  for_norm_kind(x, activation, [&](auto kind) {
    using K = decltype(kind);
    using A = const NormArguments&;
    in_parallel(
        a, [](A, int64_t, int64_t) {},
        [](A own, int64_t from, int64_t to) { FASTSCORE_DISPATCH(norm_moments<K>, own, from, to); },
        [](A own, int64_t from, int64_t to) { FASTSCORE_DISPATCH(norm_finish<K>, own, from, to); },
        [](A own, int64_t from, int64_t to) { FASTSCORE_DISPATCH(norm_apply<K>, own, from, to); });
  });
  return {out.finish(), mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> instance_norm_plus_gradient(const Tensor& upstream, const Tensor& x,
                                                                       const Tensor& mean_in, const Tensor& rstd_in,
                                                                       const Tensor& gamma, const Tensor& alpha,
                                                                       const Tensor& beta, double eps,
                                                                       int64_t activation) {
  check_like(upstream, x, "upstream");
  Layout layout(x, kNormWidest);
  NormInputs kept;
  NormArguments a = arguments_of(x, layout, gamma, alpha, beta, eps, kept);
  const Tensor in = layout.input(x), upstream_in = layout.input(upstream), mean = torch::stable::contiguous(mean_in),
               rstd = torch::stable::contiguous(rstd_in);
  for (const Tensor* numbers : {&mean, &rstd})
    STD_TORCH_CHECK(numbers->scalar_type() == kept.gamma.scalar_type() && numbers->dim() == 2 &&
                        numbers->size(0) == a.batch && numbers->size(1) == a.channels,
                    "mean and rstd must be what instance_norm_plus returned, [B, C]");
  Result to_x(layout, x);
  Tensor to[3];
  for (Tensor& one : to) one = empty({a.batch, a.channels}, {a.channels, 1}, kept.gamma);
  a.x = in.const_data_ptr();
  a.upstream = upstream_in.const_data_ptr();
  a.out = to_x.data();
  a.mean = const_cast<void*>(mean.const_data_ptr());
  a.rstd = const_cast<void*>(rstd.const_data_ptr());
  a.to_gamma = to[0].mutable_data_ptr();
  a.to_alpha = to[1].mutable_data_ptr();
  a.to_beta = to[2].mutable_data_ptr();
  for_norm_kind(x, activation, [&](auto kind) {
    using K = decltype(kind);
    using A = const NormArguments&;
    in_parallel(
        a, [](A own, int64_t from, int64_t to) { FASTSCORE_DISPATCH(norm_prepare<K>, own, from, to); },
        [](A own, int64_t from, int64_t to) { FASTSCORE_DISPATCH(norm_products<K>, own, from, to); },
        [](A own, int64_t from, int64_t to) { FASTSCORE_DISPATCH(norm_finish_gradient<K>, own, from, to); },
        [](A own, int64_t from, int64_t to) { FASTSCORE_DISPATCH(norm_apply_gradient<K>, own, from, to); });
  });
  return {to_x.finish(), to[0], to[1], to[2]};
}

STABLE_TORCH_LIBRARY_IMPL(fastscore, CPU, library) {
  library.impl("instance_norm_plus_native", TORCH_BOX(&instance_norm_plus));
  library.impl("instance_norm_plus_gradient_native", TORCH_BOX(&instance_norm_plus_gradient));
}

}  // namespace fastscore

#endif
