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
# Kernels say themselves where a multiplication and an addition are one; a kernel that spills registers is a mistake.
target_compile_options(tandem_flags
                       INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:-fmad=false;-Xptxas=-warn-spills,-Werror>")
if(TANDEM_SANITIZE)
  target_compile_options(tandem_flags INTERFACE -fsanitize=${TANDEM_SANITIZE} -fno-sanitize-recover=all
                                                -fno-omit-frame-pointer)
  target_link_options(tandem_flags INTERFACE -fsanitize=${TANDEM_SANITIZE})
endif()

# CUDA sources of a target, compiled with the checks of strict_ptxas.sh.
function(tandem_cuda_properties target)
  set(launcher ${CMAKE_SOURCE_DIR}/tools/cmake/strict_ptxas.sh ${CMAKE_CUDA_COMPILER_LAUNCHER})
  set_target_properties(${target} PROPERTIES CUDA_COMPILER_LAUNCHER "${launcher}")
  target_compile_definitions(${target} PRIVATE TANDEM_WITH_CUDA)
endfunction()

# tandem_library(NAME LINK ...): src/NAME/**.cc, and src/NAME/**.cu where CUDA is compiled, as libtandem_NAME.
# **_sm80.cu run on any card from compute capability 8.0; the rest is for Hopper.
function(tandem_library name)
  cmake_parse_arguments(ARG "" "" "LINK" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cc)
  if(TANDEM_HAS_CUDA)
    file(GLOB_RECURSE cuda_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cu)
    file(GLOB_RECURSE portable_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*_sm80.cu)
    list(REMOVE_ITEM cuda_sources ${portable_sources})
  endif()
  if(sources OR cuda_sources OR portable_sources)
    add_library(tandem_${name} STATIC ${sources} ${cuda_sources})
    target_link_libraries(tandem_${name} PUBLIC tandem_flags ${ARG_LINK})
    if(cuda_sources OR portable_sources)
      tandem_cuda_properties(tandem_${name})
      target_link_libraries(tandem_${name} PUBLIC CUDA::cudart_static)
    endif()
    if(portable_sources)
      add_library(tandem_${name}_sm80 OBJECT ${portable_sources})
      target_link_libraries(tandem_${name}_sm80 PRIVATE tandem_flags ${ARG_LINK})
      # Machine code for 8.x and for Hopper, and PTX for what comes after.
      set_target_properties(tandem_${name}_sm80 PROPERTIES CUDA_ARCHITECTURES "80;90-real")
      tandem_cuda_properties(tandem_${name}_sm80)
      target_sources(tandem_${name} PRIVATE $<TARGET_OBJECTS:tandem_${name}_sm80>)
    endif()
  else()
    add_library(tandem_${name} INTERFACE)
    target_link_libraries(tandem_${name} INTERFACE tandem_flags ${ARG_LINK})
  endif()
endfunction()
