# Compiler, linker and warnings for every target.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

find_program(KVFERRY_CCACHE ccache)
if(KVFERRY_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${KVFERRY_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${KVFERRY_CCACHE})
endif()
find_program(KVFERRY_MOLD mold)
if(KVFERRY_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

# A test that does not call a library does not load it either: UCX, for one, interposes on madvise
# as soon as it is loaded, which the thread sanitizer does not survive.
add_link_options(-Wl,--as-needed)

# -ffp-contract=off: encoded bytes must be equal on every instruction set, and g++ 12 fuses even
# intrinsics; kernels that want a fused multiply-add call one. For C++ alone: nvcc has options of
# its own (kernels/cuda).
set(options -ffp-contract=off -fno-math-errno -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor
            -Woverloaded-virtual -Werror)
add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:${options}>")
string(REPLACE "-O3" "-O2" CMAKE_CXX_FLAGS_RELEASE "${CMAKE_CXX_FLAGS_RELEASE}")

if(KVFERRY_SANITIZE)
  add_compile_options(-fsanitize=${KVFERRY_SANITIZE} -fno-omit-frame-pointer
                      -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${KVFERRY_SANITIZE})
  # gcc 12 reports false maybe-uninitialized under sanitizers (gcc bug 105562).
  add_compile_options($<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  if(KVFERRY_SANITIZE MATCHES "thread")
    # The sanitizer does not see fences. Asio's only one guards callbacks that io_context orders
    # anyway.
    add_compile_options(-Wno-tsan)
  endif()
endif()
find_package(Threads REQUIRED)
