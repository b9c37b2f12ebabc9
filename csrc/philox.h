// Philox4x32-10 (Salmon et al. 2011), for CPU and CUDA alike. The contract of the counters is in fastscore/rng.py.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define FASTSCORE_HD __host__ __device__ __forceinline__
#else
#define FASTSCORE_HD inline
#endif

namespace fastscore {

constexpr uint32_t kPhiloxM0 = 0xD2511F53u, kPhiloxM1 = 0xCD9E8D57u;  // the multipliers
constexpr uint32_t kPhiloxW0 = 0x9E3779B9u, kPhiloxW1 = 0xBB67AE85u;  // added to the key after each round
constexpr int kPhiloxRounds = 10;

// words[0..3]: the counter on entry, the random words on return.
FASTSCORE_HD void philox4x32(uint32_t words[4], uint32_t key0, uint32_t key1) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(kPhiloxM0) * words[0];
    const uint64_t p1 = static_cast<uint64_t>(kPhiloxM1) * words[2];
    words[0] = static_cast<uint32_t>(p1 >> 32) ^ words[1] ^ key0;
    words[2] = static_cast<uint32_t>(p0 >> 32) ^ words[3] ^ key1;
    words[1] = static_cast<uint32_t>(p1);
    words[3] = static_cast<uint32_t>(p0);
    key0 += kPhiloxW0;
    key1 += kPhiloxW1;
  }
}

}  // namespace fastscore
