// Compiles what lies between TD_TARGET_BEGIN("avx512f,avx512bw") and TD_TARGET_END for those instruction sets, with g++
// and clang alike. Only call such functions on machines that have them (base/cpu.h).
// Internal to kernels/.
#pragma once

#define TD_PRAGMA(text) _Pragma(#text)

#if defined(__clang__)
#define TD_TARGET_BEGIN(features) \
  TD_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define TD_TARGET_END TD_PRAGMA(clang attribute pop)
#else
#define TD_TARGET_BEGIN(features) TD_PRAGMA(GCC push_options) TD_PRAGMA(GCC target(features))
#define TD_TARGET_END TD_PRAGMA(GCC pop_options)
#endif

#define TD_INLINE inline __attribute__((always_inline))
