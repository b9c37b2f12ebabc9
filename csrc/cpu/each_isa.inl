// Includes FASTSCORE_OPERATOR once for each instruction set, inside namespace fastscore::ISA. See isa.h.
#define FASTSCORE_KERNELS 1

namespace fastscore::portable {
#include "vector_portable.inl"
#include "noise.inl"
#include "rows.inl"
#include FASTSCORE_OPERATOR
}  // namespace fastscore::portable

#if FASTSCORE_X86
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
namespace fastscore::avx2 {
#include "vector_avx2.inl"
#include "noise.inl"
#include "rows.inl"
#include FASTSCORE_OPERATOR
}  // namespace fastscore::avx2
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512dq,avx512bw,avx512vl"))), \
                             apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512dq,avx512bw,avx512vl,prefer-vector-width=512")
#endif
namespace fastscore::avx512 {
#include "vector_avx512.inl"
#include "noise.inl"
#include "rows.inl"
#include FASTSCORE_OPERATOR
}  // namespace fastscore::avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

#undef FASTSCORE_KERNELS
