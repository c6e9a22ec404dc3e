# Flags shared by every target, and one library per folder of src/.

find_package(PkgConfig REQUIRED)
if(NOT TANDEM_PYTHON)
  set(CMAKE_FIND_LIBRARY_SUFFIXES .a)
  pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
  pkg_check_modules(NGHTTP2 REQUIRED IMPORTED_TARGET libnghttp2)
  pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
  unset(CMAKE_FIND_LIBRARY_SUFFIXES)
endif()
set(CMAKE_FIND_LIBRARY_SUFFIXES .so .a)
pkg_check_modules(HWY REQUIRED IMPORTED_TARGET libhwy)

add_library(tandem_flags INTERFACE)
target_include_directories(tandem_flags INTERFACE ${CMAKE_SOURCE_DIR}/src)
target_compile_options(
  tandem_flags
  INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Werror -Wno-missing-field-initializers -fno-math-errno
            -ffp-contract=off>
            # GCC 12 reports overlapping copies inside std::string that are not there (its bug 105651).
            $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-restrict>)
# fmt 9 turns its constexpr off under nvcc, and then its format strings do not compile as C++20.
target_compile_definitions(tandem_flags INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:FMT_USE_CONSTEXPR=1>)
# A kernel that spills registers is a mistake; TANDEM_STRICT_PTXAS=OFF is for while it is being worked on.
option(TANDEM_STRICT_PTXAS "Spilled registers and serialised wgmma in CUDA kernels fail the build" ON)
target_compile_options(tandem_flags INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-Xptxas=-warn-spills>)
if(TANDEM_STRICT_PTXAS)
  target_compile_options(tandem_flags INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-Xptxas=-Werror>)
endif()
if(TANDEM_SANITIZE)
  target_compile_options(tandem_flags INTERFACE -fsanitize=${TANDEM_SANITIZE} -fno-sanitize-recover=all
                                                -fno-omit-frame-pointer)
  target_link_options(tandem_flags INTERFACE -fsanitize=${TANDEM_SANITIZE})
  # Undefined behaviour is looked for in our code, not in each of Highway's and the standard library's functions that
  # is inlined into it: half of the time of compiling a kernel, and much of the time of running it.
  target_compile_options(
    tandem_flags
    INTERFACE $<$<COMPILE_LANG_AND_ID:CXX,Clang>:-fsanitize-ignorelist=${CMAKE_SOURCE_DIR}/tools/cmake/ubsan_ignore.txt>)
  # No emulated vectors, which are very slow to compile and to run here: the baseline is AVX2.
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    target_compile_options(tandem_flags INTERFACE -march=haswell -maes)
    # With which GCC 12 reports more of the copies inside std::string that are not there.
    target_compile_options(tandem_flags INTERFACE $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-array-bounds
                                                  -Wno-stringop-overflow -Wno-stringop-overread>)
  endif()
endif()

# tandem_precompile(TARGET [FUZZED] [HEADERS ... LINK ...]): with TANDEM_PRECOMPILE, the target's files see the common
# headers and those named (of the libraries named) as precompiled ones, made once for all targets that ask for the same.
set(TANDEM_COMMON_HEADERS <algorithm> <array> <chrono> <cmath> <cstdint> <filesystem> <functional> <map> <memory> <mutex>
                          <optional> <span> <string> <string_view> <thread> <unordered_map> <utility> <vector>
                          <boost/json.hpp> <fmt/format.h>)
function(tandem_precompile target)
  cmake_parse_arguments(ARG "FUZZED" "" "HEADERS;LINK" ${ARGN})
  if(NOT TANDEM_PRECOMPILE)
    return()
  endif()
  string(MD5 digest "${ARGN}")
  set(holder tandem_headers_${digest})
  if(NOT TARGET ${holder})
    file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/empty.cc CONTENT "")
    add_library(${holder} OBJECT ${CMAKE_BINARY_DIR}/generated/empty.cc)
    target_link_libraries(${holder} PRIVATE tandem_flags Boost::json Threads::Threads ${ARG_LINK})
    target_precompile_headers(${holder} PRIVATE ${TANDEM_COMMON_HEADERS} ${ARG_HEADERS})
    if(ARG_FUZZED)
      tandem_fuzzed(${holder})
    endif()
    # ccache keeps a precompiled header only if the time is not in it.
    target_compile_options(${holder} PRIVATE $<$<COMPILE_LANG_AND_ID:CXX,Clang>:SHELL:-Xclang -fno-pch-timestamp>)
  endif()
  target_precompile_headers(${target} REUSE_FROM ${holder})
endfunction()

# Counts branches in the target's code for the fuzzers. Not in the kernels, which no fuzzer reaches.
function(tandem_fuzzed target)
  if(TANDEM_FUZZERS)
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
endfunction()

# For targets with CUDA sources.
function(tandem_cuda_properties target)
  if(TANDEM_STRICT_PTXAS)
    set(launcher ${CMAKE_SOURCE_DIR}/tools/cmake/strict_ptxas.sh ${CMAKE_CUDA_COMPILER_LAUNCHER})
    set_target_properties(${target} PROPERTIES CUDA_COMPILER_LAUNCHER "${launcher}")
  endif()
  target_compile_definitions(${target} PRIVATE TANDEM_WITH_CUDA)
endfunction()

# tandem_library(NAME [FUZZED] LINK ...): src/NAME/**.cc, and src/NAME/**.cu where CUDA is compiled, as libtandem_NAME.
# **_sm80.cu run on any card from compute capability 8.0; the rest is for Hopper.
function(tandem_library name)
  cmake_parse_arguments(ARG "FUZZED" "" "LINK" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cc)
  if(TANDEM_HAS_CUDA)
    file(GLOB_RECURSE cuda_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cu)
    file(GLOB_RECURSE portable_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*_sm80.cu)
    list(REMOVE_ITEM cuda_sources ${portable_sources})
  endif()
  if(sources OR cuda_sources OR portable_sources)
    add_library(tandem_${name} STATIC ${sources} ${cuda_sources})
    target_link_libraries(tandem_${name} PUBLIC tandem_flags ${ARG_LINK})
    if(ARG_FUZZED)
      tandem_fuzzed(tandem_${name})
      tandem_precompile(tandem_${name} FUZZED)
    else()
      tandem_precompile(tandem_${name})
    endif()
    if(cuda_sources OR portable_sources)
      tandem_cuda_properties(tandem_${name})
      target_link_libraries(tandem_${name} PUBLIC CUDA::cudart_static)
    endif()
    if(portable_sources)
      add_library(tandem_${name}_sm80 OBJECT ${portable_sources})
      target_link_libraries(tandem_${name}_sm80 PRIVATE tandem_flags ${ARG_LINK})
      # Machine code for 8.x and for Hopper, and PTX for what comes after. These kernels say themselves where a
      # multiplication and an addition are one.
      set_target_properties(tandem_${name}_sm80 PROPERTIES CUDA_ARCHITECTURES "80;90-real")
      target_compile_options(tandem_${name}_sm80 PRIVATE -fmad=false)
      tandem_cuda_properties(tandem_${name}_sm80)
      target_sources(tandem_${name} PRIVATE $<TARGET_OBJECTS:tandem_${name}_sm80>)
    endif()
  else()
    add_library(tandem_${name} INTERFACE)
    target_link_libraries(tandem_${name} INTERFACE tandem_flags ${ARG_LINK})
  endif()
endfunction()
