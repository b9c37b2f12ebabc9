// Instruction sets. Each operator's file is compiled once for each of them, and the best one is chosen at run time:
// the file names itself in FASTSCORE_OPERATOR and includes each_isa.inl, which includes it again for each set.
#pragma once

#include <cstdint>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define FASTSCORE_X86 1
#include <immintrin.h>
#endif

namespace fastscore {

enum class Isa : int64_t { portable = 0, avx2 = 1, avx512 = 2 };

Isa best_isa();  // the best that this processor has
Isa isa();       // the one in use

}  // namespace fastscore

// Calls FUNCTION of the instruction set in use; FUNCTION is the same name in each of the namespaces.
#if FASTSCORE_X86
#define FASTSCORE_DISPATCH(FUNCTION, ...)                                                      \
  (::fastscore::isa() == ::fastscore::Isa::avx512 ? ::fastscore::avx512::FUNCTION(__VA_ARGS__) \
   : ::fastscore::isa() == ::fastscore::Isa::avx2 ? ::fastscore::avx2::FUNCTION(__VA_ARGS__)   \
                                                  : ::fastscore::portable::FUNCTION(__VA_ARGS__))
#else
#define FASTSCORE_DISPATCH(FUNCTION, ...) ::fastscore::portable::FUNCTION(__VA_ARGS__)
#endif
