// The passes of instance_norm_plus over a sample's memory, included once for each instruction set. What a row, a chunk,
// a span and a unit are: instance_norm_plus.cpp.

#include "instance_norm_plus_strips.inl"

// The mean of each channel over a unit, and the sum of squares around it: chunk by chunk in two passes, whose rounded
// mean is then corrected; chunks are joined in float64 (Chan, Golub and LeVeque 1979).
template <class K>
void norm_moments(const NormArguments& a, int64_t from, int64_t to) {
  using T = typename K::Element;
  using C = Compute<T>;
  alignas(64) C buffer[kNormChunk + kSlack], other[kNormChunk + kSlack];
  alignas(64) C sums[kNormWidest], rest[kNormWidest], centre[kNormWidest];
  for (int64_t index = from; index < to; ++index) {
    const NormUnit unit(a, index);
    const int64_t row = unit.row, width = unit.width;
    double *mean = unit.sums(a), *squares = mean + a.channels, seen = 0;
    norm_chunks(a, unit, [&](int64_t at, int64_t n) {
      const C* x = norm_load(a, static_cast<const T*>(a.x) + at, n, buffer, other);
      for (int64_t k = 0; k < row; ++k) sums[k] = 0;
      int64_t i = 0;
      for (; i + 4 * row <= n; i += 4 * row) {
#pragma GCC ivdep
        for (int64_t k = 0; k < row; ++k)
          sums[k] += (x[i + k] + x[i + row + k]) + (x[i + 2 * row + k] + x[i + 3 * row + k]);
      }
      for (; i < n; i += row) {
        const int64_t m = std::min(row, n - i);
#pragma GCC ivdep
        for (int64_t k = 0; k < m; ++k) sums[k] += x[i + k];
      }
      norm_fold(sums, width, row);
      const double pixels = static_cast<double>(n / width), inverse = 1 / pixels;
      for (int64_t k = 0; k < width; ++k) sums[k] *= static_cast<C>(inverse);
      norm_tile(sums, width, row, centre);
      for (int64_t k = 0; k < row; ++k) sums[k] = rest[k] = 0;
      for (i = 0; i < n; i += row) {
        const int64_t m = std::min(row, n - i);
#pragma GCC ivdep
        for (int64_t k = 0; k < m; ++k) {
          const C away = x[i + k] - centre[k];
          rest[k] += away;
          sums[k] = fma_(away, away, sums[k]);
        }
      }
      norm_fold(rest, width, row);
      norm_fold(sums, width, row);
      const double total = seen + pixels, part = pixels / total, between = seen * part;
      if (seen == 0) {
        for (int64_t k = 0; k < width; ++k) mean[k] = squares[k] = 0;
      }
#pragma GCC ivdep
      for (int64_t k = 0; k < width; ++k) {
        const double more = rest[k] * inverse, shift = centre[k] + more - mean[k];
        mean[k] += shift * part;
        squares[k] += sums[k] - rest[k] * more + shift * shift * between;
      }
      seen = total;
    });
  }
}

// The normalised means t of a sample: t = r (mean - m), r = (q + eps)^-1/2. Returns r. `mean` may be rounded, or not
// yet.
template <class M>
inline double norm_shares(const M* mean, int64_t channels, double eps, double* t) {
  double m = 0, q = 0;
  for (int64_t c = 0; c < channels; ++c) m += mean[c];
  m /= channels;
  for (int64_t c = 0; c < channels; ++c) {
    t[c] = mean[c] - m;
    q += t[c] * t[c];
  }
  const double r = 1 / std::sqrt(q / (channels - 1) + eps);
  for (int64_t c = 0; c < channels; ++c) t[c] *= r;
  return r;
}

// From the moments of the spans to mean and rstd, and what norm_apply takes: out = phi(scale (x - mean) + shift).
template <class K>
void norm_finish(const NormArguments& a, int64_t from, int64_t to) {
  using C = Compute<typename K::Element>;
  for (int64_t sample = from; sample < to; ++sample) {
    double *mean = a.sums_of(sample), *squares = mean + a.channels;
    for (int64_t span = 1; span < a.spans; ++span) {
      const double seen = static_cast<double>(span * a.span), more = std::min<double>(a.span, a.pixels - seen);
      const double total = seen + more, part = more / total, between = seen * part;
      const double *other = mean + span * 2 * a.channels, *other_squares = other + a.channels;
      for (int64_t c = 0; c < a.channels; ++c) {
        const double shift = other[c] - mean[c];
        mean[c] += shift * part;
        squares[c] += other_squares[c] + shift * shift * between;
      }
    }
    const C *gamma = a.gamma.at<C>(sample), *alpha = a.alpha.at<C>(sample), *beta = a.beta.at<C>(sample);
    C *rounded = static_cast<C*>(a.mean) + sample * a.channels, *rstd = static_cast<C*>(a.rstd) + sample * a.channels;
    C *scale = a.coefficients_of<C>(sample), *shift = scale + a.channels;
    for (int64_t c = 0; c < a.channels; ++c) {
      rstd[c] = static_cast<C>(1 / std::sqrt(squares[c] / static_cast<double>(a.pixels) + a.eps));
      scale[c] = gamma[c] * rstd[c];
    }
    double* t = a.shares_of(sample);
    norm_shares(mean, a.channels, a.eps, t);
    for (int64_t c = 0; c < a.channels; ++c) {
      rounded[c] = static_cast<C>(mean[c]);
      const double lost = mean[c] - rounded[c];  // what rounding took away goes into the shift
      shift[c] = static_cast<C>(double(gamma[c]) * alpha[c] * t[c] + beta[c] - scale[c] * lost);
    }
  }
}

template <class K>
void norm_apply(const NormArguments& a, int64_t from, int64_t to) {
  using T = typename K::Element;
  using C = Compute<T>;
  alignas(64) C in[kNormChunk + kSlack], out[kNormChunk + kSlack];
  alignas(64) C mean[kNormWidest], scale[kNormWidest], shift[kNormWidest];
  int64_t tiled = -1;
  for (int64_t index = from; index < to; ++index) {
    const NormUnit unit(a, index);
    const int64_t row = unit.row, place = unit.sample * a.channels + unit.channel;
    if (place != tiled) {
      const C* numbers = a.coefficients_of<C>(unit.sample) + unit.channel;
      norm_tile(static_cast<const C*>(a.mean) + place, unit.width, row, mean);
      norm_tile(numbers, unit.width, row, scale);
      norm_tile(numbers + a.channels, unit.width, row, shift);
      tiled = place;
    }
    norm_chunks(a, unit, [&](int64_t at, int64_t n) {
      const C* x = norm_load(a, static_cast<const T*>(a.x) + at, n, in, out);
      T* final = static_cast<T*>(a.out) + at;
      C* y = norm_target(a, final, out);
      for (int64_t i = 0; i < n; i += row) {
        const int64_t m = std::min(row, n - i);
#pragma GCC ivdep
        for (int64_t k = 0; k < m; ++k) {
          const C value = fma_(x[i + k] - mean[k], scale[k], shift[k]);
          y[i + k] = K::elu ? elu(value) : value;
        }
      }
      norm_store(a, y, n, final, in);
    });
  }
}

// scale and shift again, of what is known before the gradient.
template <class K>
void norm_prepare(const NormArguments& a, int64_t from, int64_t to) {
  using C = Compute<typename K::Element>;
  for (int64_t sample = from; sample < to; ++sample) {
    const C *gamma = a.gamma.at<C>(sample), *alpha = a.alpha.at<C>(sample), *beta = a.beta.at<C>(sample);
    const C *mean = static_cast<C*>(a.mean) + sample * a.channels,
            *rstd = static_cast<C*>(a.rstd) + sample * a.channels;
    C *scale = a.coefficients_of<C>(sample), *shift = scale + a.channels;
    double* t = a.shares_of(sample);
    t[a.channels] = norm_shares(mean, a.channels, a.eps, t);
    for (int64_t c = 0; c < a.channels; ++c) {
      scale[c] = gamma[c] * rstd[c];
      shift[c] = static_cast<C>(double(gamma[c]) * alpha[c] * t[c] + beta[c]);
    }
  }
}

// The sums over a unit of d = upstream phi'(a), and of d (x - mean).
template <class K>
void norm_products(const NormArguments& a, int64_t from, int64_t to) {
  using T = typename K::Element;
  using C = Compute<T>;
  alignas(64) C x_buffer[kNormChunk + kSlack], upstream_buffer[kNormChunk + kSlack], other[kNormChunk + kSlack];
  alignas(64) C mean[kNormWidest], scale[kNormWidest], shift[kNormWidest], first[kNormWidest], second[kNormWidest];
  for (int64_t index = from; index < to; ++index) {
    const NormUnit unit(a, index);
    const int64_t row = unit.row, width = unit.width;
    const int64_t place = unit.sample * a.channels + unit.channel;
    const C* numbers = a.coefficients_of<C>(unit.sample) + unit.channel;
    norm_tile(static_cast<const C*>(a.mean) + place, width, row, mean);
    norm_tile(numbers, width, row, scale);
    norm_tile(numbers + a.channels, width, row, shift);
    double *s1 = unit.sums(a), *s2 = s1 + a.channels;
    for (int64_t k = 0; k < width; ++k) s1[k] = s2[k] = 0;
    norm_chunks(a, unit, [&](int64_t at, int64_t n) {
      const C* x = norm_load(a, static_cast<const T*>(a.x) + at, n, x_buffer, other);
      const C* g = norm_load(a, static_cast<const T*>(a.upstream) + at, n, upstream_buffer, other);
      for (int64_t k = 0; k < row; ++k) first[k] = second[k] = 0;
      for (int64_t i = 0; i < n; i += row) {
        const int64_t m = std::min(row, n - i);
#pragma GCC ivdep
        for (int64_t k = 0; k < m; ++k) {
          const C away = x[i + k] - mean[k];
          const C d = K::elu ? g[i + k] * elu_slope(fma_(away, scale[k], shift[k])) : g[i + k];
          first[k] += d;
          second[k] = fma_(d, away, second[k]);
        }
      }
      norm_fold(first, width, row);
      norm_fold(second, width, row);
      for (int64_t k = 0; k < width; ++k) {
        s1[k] += first[k];
        s2[k] += second[k];
      }
    });
  }
}

// The parameters' gradients, and what norm_apply_gradient takes: to_x = scale d + slope (x - mean) + constant.
template <class K>
void norm_finish_gradient(const NormArguments& a, int64_t from, int64_t to) {
  using C = Compute<typename K::Element>;
  const double pixels = static_cast<double>(a.pixels);
  for (int64_t sample = from; sample < to; ++sample) {
    double *s1 = a.sums_of(sample), *s2 = s1 + a.channels;
    for (int64_t span = 1; span < a.spans; ++span)
      for (int64_t k = 0; k < 2 * a.channels; ++k) s1[k] += s1[span * 2 * a.channels + k];
    const int64_t at = sample * a.channels;
    const C *gamma = a.gamma.at<C>(sample), *alpha = a.alpha.at<C>(sample);
    const C* rstd = static_cast<C*>(a.rstd) + at;
    C *to_gamma = static_cast<C*>(a.to_gamma) + at, *to_alpha = static_cast<C*>(a.to_alpha) + at,
      *to_beta = static_cast<C*>(a.to_beta) + at;
    const double *t = a.shares_of(sample), r = t[a.channels];
    double sum = 0, product = 0;  // of u = gamma alpha s1, and of u t, over the channels
    for (int64_t c = 0; c < a.channels; ++c) {
      s2[c] *= rstd[c];
      to_beta[c] = static_cast<C>(s1[c]);
      to_gamma[c] = static_cast<C>(s2[c] + alpha[c] * t[c] * s1[c]);
      to_alpha[c] = static_cast<C>(gamma[c] * t[c] * s1[c]);
      const double u = double(gamma[c]) * alpha[c] * s1[c];
      sum += u;
      product += u * t[c];
    }
    sum /= a.channels;
    product /= a.channels - 1;
    C *slope = a.coefficients_of<C>(sample) + 2 * a.channels, *constant = slope + a.channels;
    for (int64_t c = 0; c < a.channels; ++c) {
      const double to_mean = r * (double(gamma[c]) * alpha[c] * s1[c] - sum - t[c] * product);
      const double scale = double(gamma[c]) * rstd[c];
      slope[c] = static_cast<C>(-scale * rstd[c] * s2[c] / pixels);
      constant[c] = static_cast<C>((to_mean - scale * s1[c]) / pixels);
    }
  }
}

template <class K>
void norm_apply_gradient(const NormArguments& a, int64_t from, int64_t to) {
  using T = typename K::Element;
  using C = Compute<T>;
  alignas(64) C x_buffer[kNormChunk + kSlack], upstream_buffer[kNormChunk + kSlack], out[kNormChunk + kSlack];
  alignas(64) C numbers[5][kNormWidest];
  const C *mean = numbers[0], *scale = numbers[1], *shift = numbers[2], *slope = numbers[3], *constant = numbers[4];
  for (int64_t index = from; index < to; ++index) {
    const NormUnit unit(a, index);
    const int64_t row = unit.row, width = unit.width;
    const C* given = a.coefficients_of<C>(unit.sample) + unit.channel;
    norm_tile(static_cast<const C*>(a.mean) + unit.sample * a.channels + unit.channel, width, row, numbers[0]);
    for (int64_t i = 0; i < 4; ++i) norm_tile(given + i * a.channels, width, row, numbers[1 + i]);
    norm_chunks(a, unit, [&](int64_t at, int64_t n) {
      const C* x = norm_load(a, static_cast<const T*>(a.x) + at, n, x_buffer, out);
      const C* g = norm_load(a, static_cast<const T*>(a.upstream) + at, n, upstream_buffer, out);
      T* final = static_cast<T*>(a.out) + at;
      C* to_x = norm_target(a, final, out);
      for (int64_t i = 0; i < n; i += row) {
        const int64_t m = std::min(row, n - i);
#pragma GCC ivdep
        for (int64_t k = 0; k < m; ++k) {
          const C away = x[i + k] - mean[k];
          const C d = K::elu ? g[i + k] * elu_slope(fma_(away, scale[k], shift[k])) : g[i + k];
          to_x[i + k] = fma_(scale[k], d, fma_(slope[k], away, constant[k]));
        }
      }
      norm_store(a, to_x, n, final, x_buffer);
    });
  }
}
