// The instruction sets that kernels are compiled for. Include before any header of Highway.
//
// Each kernel is compiled once per target and chosen when first called (Highway's dynamic dispatch). Few targets keep
// the build short: on x86 the baseline, AVX2 and AVX-512; elsewhere whatever Highway attains.
#pragma once

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
