# Third-party libraries, all from Debian 12. Debian's CMake files for UCX name no dependencies and
# those for oneDNN demand OpenCL, so these two are found by header and library.

set(Boost_NO_WARN_NEW_VERSIONS ON)
find_package(Boost 1.81 REQUIRED COMPONENTS json)
find_package(Protobuf REQUIRED)
find_package(prometheus-cpp CONFIG REQUIRED COMPONENTS core)
find_package(spdlog CONFIG REQUIRED)
find_package(yaml-cpp CONFIG REQUIRED)
find_package(CLI11 CONFIG REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
find_package(PkgConfig REQUIRED)
pkg_check_modules(xxhash REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(pcre2 REQUIRED IMPORTED_TARGET libpcre2-8)

function(kvferry_find_library target header)
  find_path(${target}_INCLUDE ${header} REQUIRED)
  set(libraries)
  foreach(name IN LISTS ARGN)
    find_library(${target}_${name} ${name} REQUIRED)
    list(APPEND libraries ${${target}_${name}})
  endforeach()
  add_library(${target} INTERFACE IMPORTED GLOBAL)
  target_include_directories(${target} SYSTEM INTERFACE ${${target}_INCLUDE})
  target_link_libraries(${target} INTERFACE ${libraries})
endfunction()

kvferry_find_library(ucx ucp/api/ucp.h ucp ucs)
kvferry_find_library(onednn oneapi/dnnl/dnnl.hpp dnnl)
find_library(KVFERRY_GOMP NAMES gomp libgomp.so.1 PATHS /usr/lib/gcc/x86_64-linux-gnu/12 REQUIRED)

if(KVFERRY_TESTS)
  find_package(GTest REQUIRED)
endif()
