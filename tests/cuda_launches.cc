// Which CUDA kernels a test binary has and which it launched, in order: written to the file that TANDEM_LAUNCHES names,
// for tools/sanitize_kernels.py, which must leave none out. The linker sends here what launch() calls of the runtime
// (tests/CMakeLists.txt); <<<>>> calls something else.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace {

// Written as the process ends: a line for each kernel with its mangled name, an empty one, a line for each launch with
// the kernel's number.
class Launches {
 public:
  ~Launches() {
    const char* const path = std::getenv("TANDEM_LAUNCHES");
    std::FILE* const file = path != nullptr ? std::fopen(path, "w") : nullptr;
    if (file == nullptr) return;
    for (const std::string& name : names_) std::fprintf(file, "%s\n", name.c_str());
    std::fprintf(file, "\n");
    for (const std::size_t launched : launched_) std::fprintf(file, "%zu\n", launched);
    std::fclose(file);
  }
  void add_kernel(const void* kernel, const char* name) {
    const std::lock_guard lock(mutex_);
    if (numbers_.try_emplace(kernel, names_.size()).second) names_.emplace_back(name);
  }
  void add_launch(const void* kernel) {
    const std::lock_guard lock(mutex_);
    launched_.push_back(numbers_.at(kernel));
  }

 private:
  std::mutex mutex_;
  std::map<const void*, std::size_t> numbers_;
  std::vector<std::string> names_;
  std::vector<std::size_t> launched_;
};

Launches& launches() {
  static Launches all;
  return all;
}

}  // namespace

extern "C" {

void __real___cudaRegisterFunction(void**, const char*, char*, const char*, int, uint3*, uint3*, dim3*, dim3*, int*);
void __wrap___cudaRegisterFunction(void** code, const char* kernel, char* function, const char* name, int threads,
                                   uint3* thread, uint3* block, dim3* block_shape, dim3* grid_shape, int* warp) {
  launches().add_kernel(kernel, name);
  __real___cudaRegisterFunction(code, kernel, function, name, threads, thread, block, block_shape, grid_shape, warp);
}

cudaError_t __real_cudaLaunchKernelExC(const cudaLaunchConfig_t*, const void*, void**);
cudaError_t __wrap_cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** arguments) {
  launches().add_launch(kernel);
  return __real_cudaLaunchKernelExC(config, kernel, arguments);
}

}  // extern "C"
