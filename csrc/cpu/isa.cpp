// Which instruction set the operators use.
#include "isa.h"

#include <atomic>

#include "tensor.h"

namespace fastscore {

Isa best_isa() {
#if FASTSCORE_X86
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c"))
    return Isa::portable;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    return Isa::avx512;
  return Isa::avx2;
#else
  return Isa::portable;
#endif
}

static std::atomic<Isa> current{best_isa()};

Isa isa() { return current.load(std::memory_order_relaxed); }

// Sets the instruction set where `wanted` is not negative, and returns the one that was in use before.
int64_t native_isa(int64_t wanted) {
  STD_TORCH_CHECK(wanted <= static_cast<int64_t>(best_isa()), "this processor does not have that instruction set");
  const Isa before = isa();
  if (wanted >= 0) current.store(static_cast<Isa>(wanted), std::memory_order_relaxed);
  return static_cast<int64_t>(before);
}

STABLE_TORCH_LIBRARY_IMPL(fastscore, CompositeExplicitAutograd, library) {
  library.impl("native_isa", TORCH_BOX(&native_isa));
}

}  // namespace fastscore
