// read_images: a batch of uint8 images by their indices, mirrored, dequantised and perturbed in one pass.
#if FASTSCORE_KERNELS

// Whether a row is mirrored: its first uniform number of the stream FLIPS is below 1/2.
inline bool mirrored(const Position& flips, uint32_t sample) {
  uint32_t words[4] = {0, sample, flips.step, flips.stream};
  philox4x32(words, flips.key0, flips.key1);
  return words[0] >> 31 == 0;
}

// The bytes begin .. begin + n of an image whose lines of `line` bytes are mirrored.
inline void mirror(const uint8_t* image, int64_t line, int64_t begin, int64_t n, uint8_t* out) {
  for (int64_t i = 0; i < n;) {
    const int64_t start = (begin + i) / line * line, stop = start + line - begin < n ? start + line - begin : n;
    for (; i < stop; ++i) out[i] = image[start + line - 1 - (begin + i - start)];
  }
}

// x is what the bytes stand for, of q values, with uniform noise; q = 256 needs neither a table nor a division.
inline void dequantize(const ReadArguments& a, const uint8_t* bytes, const uint32_t* words, int64_t n, float* x) {
  if (a.count == 256.0f) {
    for (int64_t i = 0; i < n; ++i)
      x[i] =
          (static_cast<float>(bytes[i]) + static_cast<float>(static_cast<int32_t>(words[i] >> 8)) * 0x1p-24f) * 0x1p-8f;
    return;
  }
  for (int64_t i = 0; i < n; ++i)
    x[i] = (a.value[bytes[i]] + static_cast<float>(static_cast<int32_t>(words[i] >> 8)) * 0x1p-24f) / a.count;
}

template <class T>
void read_images(const ReadArguments& a, int64_t from, int64_t to) {
  using C = Compute<T>;
  alignas(64) uint32_t word_buffer[kBlock + kSlack], other_words[kBlock + kSlack];
  alignas(64) float z_buffer[kBlock + kSlack], other_z[kBlock + kSlack], x[kBlock + kSlack];
  alignas(64) uint8_t bytes[kBlock];
  alignas(64) C buffer[kBlock + kSlack];
  for_each_unit(a.rows, from, to, [&](int64_t row, int64_t, int64_t begin, int64_t n) {
    const uint8_t* image = a.images + a.indices[a.many_indices ? row : 0] * a.rows.width;
    const uint8_t* source = image + begin;
    if (a.flips && mirrored(a.flip_draw, a.noise.sample(row))) {
      mirror(image, a.line, begin, n, bytes);
      source = bytes;
    }
    if (a.dequantize) {
      dequantize(a, source, row_block(a.rows, a.uniform_draw, row, begin, n, word_buffer, other_words), n, x);
    } else {
      for (int64_t i = 0; i < n; ++i) x[i] = a.value[source[i]];
    }
    T* out = static_cast<T*>(a.out) + row * a.rows.width + begin;
    C* result = target(out, buffer);
    if (a.sigma.data) {
      const float* z = row_block(a.rows, a.noise, row, begin, n, z_buffer, other_z);
      const C sigma = a.sigma.at<C>(row);
      for (int64_t i = 0; i < n; ++i) result[i] = fma_(sigma, C(z[i]), C(x[i]));
    } else {
      for (int64_t i = 0; i < n; ++i) result[i] = x[i];
    }
    store(result, n, out);
  });
}

#else

#include "tensor.h"

namespace fastscore {
struct ReadArguments {
  const uint8_t* images;
  const int64_t* indices;
  bool many_indices, flips, dequantize;
  void* out;
  int64_t line;  // bytes
  PerRow sigma;
  Rows rows;
  Draw noise, uniform_draw;
  Position flip_draw;
  float count;       // of the values that a pixel can have
  float value[256];  // what each byte stands for, before uniform noise and division by `count`
};
constexpr int64_t kDequantize = 5, kFlips = 7;  // streams: fastscore.Stream
}  // namespace fastscore

#define FASTSCORE_OPERATOR "read_images.cpp"
#include "each_isa.inl"

namespace fastscore {

void check_indices(const Tensor& indices, int64_t rows, int64_t count) {
  STD_TORCH_CHECK(indices.scalar_type() == ScalarType::Long && indices.is_contiguous() &&
                      (indices.dim() == 0 || (indices.dim() == 1 && indices.size(0) == rows)),
                  "indices must be int64, contiguous, of shape [] or [B]");
  const int64_t* values = indices.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < indices.numel(); ++i)
    STD_TORCH_CHECK(values[i] >= 0 && values[i] < count, "indices must be from 0 to ", count - 1, ", got ", values[i]);
}

// A new contiguous tensor of the shape and dtype of `like`, whose values are not read.
Tensor read_images(const Tensor& like, const Tensor& images, const Tensor& indices, const std::optional<Tensor>& sigma,
                   int64_t num_values, bool flips, int64_t data_seed, int64_t data_step, int64_t seed, int64_t step,
                   int64_t stream, int64_t offset, const std::optional<Tensor>& state,
                   const std::optional<Tensor>& index) {
  const Tensor out = empty_contiguous(std::vector<int64_t>(like.sizes().begin(), like.sizes().end()), like);
  Rows rows = Layout(out).rows;
  rows.group = 1;  // two draws are for each unit
  STD_TORCH_CHECK(images.scalar_type() == ScalarType::Byte && images.is_contiguous() && images.dim() == out.dim() &&
                      images.size(0) > 0 && images.numel() == images.size(0) * rows.width,
                  "images must be uint8, contiguous, and of the shape of the samples");
  STD_TORCH_CHECK(num_values == 0 || (num_values > 1 && num_values <= 256), "num_values must be 0, or from 2 to 256");
  check_indices(indices, rows.count, images.size(0));
  ReadArguments a{static_cast<const uint8_t*>(images.const_data_ptr()),
                  indices.const_data_ptr<int64_t>(),
                  indices.dim() == 1,
                  flips,
                  num_values > 0,
                  out.mutable_data_ptr(),
                  out.dim() > 1 ? out.size(out.dim() - 1) : 1,
                  sigma ? per_row(*sigma, like, "sigma", Values::positive) : PerRow{nullptr, false},
                  rows,
                  draw(seed, step, stream, offset, state, index, like),
                  draw(data_seed, data_step, kDequantize, offset, std::nullopt, index, like),
                  draw(data_seed, data_step, kFlips, offset, std::nullopt, index, like).position,
                  static_cast<float>(num_values),
                  {}};
  for (int64_t byte = 0; byte < 256; ++byte)  // value k of q is stored as round(255 k / (q - 1)); no ties
    a.value[byte] = num_values == 0 ? static_cast<float>(byte) / 255.0f
                                    : static_cast<float>((2 * byte * (num_values - 1) + 255) / 510);
  for_each_type(out, [&](auto type) {
    in_parallel(a.rows,
                [&](int64_t from, int64_t to) { FASTSCORE_DISPATCH(read_images<decltype(type)>, a, from, to); });
  });
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(fastscore, CPU, library) { library.impl("read_images_native", TORCH_BOX(&read_images)); }

}  // namespace fastscore

#endif
