// Marks functions that both hosts and kernels call, for compilers that know the difference and those that do not.
#pragma once

#ifdef __CUDACC__
#define TD_HOST_DEVICE __host__ __device__
#else
#define TD_HOST_DEVICE
#endif
