# kvferry_room(NAME SOURCES a.cpp ... DEPENDS base ... [LIBRARIES ext ...]
#              [PRIVATE_LIBRARIES ext ...])
#   The library kvferry::NAME of the folder NAME. Includes are written from the root:
#   "base/status.h".
#   LIBRARIES are those that its headers need too, PRIVATE_LIBRARIES those of its sources alone.
# kvferry_test(NAME SOURCES a_test.cpp ... DEPENDS base ... [LABELS l ...] [TIMEOUT s])
#   A GoogleTest program, registered with CTest as one test. It may take TIMEOUT seconds, 120 unless
#   said, and five times that under a sanitizer.
# kvferry_python_test(NAME PACKAGE openai COMMAND script.py argument ... [LABELS l ...])
#   A script that KVFERRY_PYTHON runs, a test where that interpreter has the package and none where
#   it does not, which configuring says. A test labelled serial runs alone.

function(kvferry_room name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;LIBRARIES;PRIVATE_LIBRARIES" ${ARGN})
  if(ARG_SOURCES)
    add_library(kvferry_${name} STATIC ${ARG_SOURCES})
    set(scope PUBLIC)
  else()
    add_library(kvferry_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  add_library(kvferry::${name} ALIAS kvferry_${name})
  target_include_directories(kvferry_${name} ${scope} ${PROJECT_SOURCE_DIR})
  list(TRANSFORM ARG_DEPENDS PREPEND kvferry::)
  target_link_libraries(kvferry_${name} ${scope} ${ARG_DEPENDS} ${ARG_LIBRARIES} Threads::Threads)
  if(ARG_SOURCES AND ARG_PRIVATE_LIBRARIES)
    target_link_libraries(kvferry_${name} PRIVATE ${ARG_PRIVATE_LIBRARIES})
  endif()
endfunction()

function(kvferry_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPENDS;LIBRARIES;LABELS;ENVIRONMENT" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(KVFERRY_SANITIZE)  # ThreadSanitizer slows kernels down tenfold
    math(EXPR ARG_TIMEOUT "5 * ${ARG_TIMEOUT}")
  endif()
  add_executable(${name} ${ARG_SOURCES})
  list(TRANSFORM ARG_DEPENDS PREPEND kvferry::)
  target_link_libraries(${name} PRIVATE ${ARG_DEPENDS} ${ARG_LIBRARIES} GTest::gmock
                        GTest::gtest_main)
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}"
                       ENVIRONMENT "KVFERRY_SOURCE_DIR=${PROJECT_SOURCE_DIR};${ARG_ENVIRONMENT}")
endfunction()

# KVFERRY_PYTHON may name an interpreter of a virtual environment.
function(kvferry_python_test name)
  cmake_parse_arguments(ARG "" "PACKAGE" "COMMAND;LABELS" ${ARGN})
  find_program(KVFERRY_PYTHON python3)
  set(missing 1)
  if(KVFERRY_PYTHON)
    execute_process(COMMAND ${KVFERRY_PYTHON} -c "import ${ARG_PACKAGE}" RESULT_VARIABLE missing
                    OUTPUT_QUIET ERROR_QUIET)
  endif()
  if(missing)
    message(STATUS "${name} is left out: no Python with the package ${ARG_PACKAGE}")
    return()
  endif()
  add_test(NAME ${name} COMMAND ${KVFERRY_PYTHON} ${ARG_COMMAND})
  set_tests_properties(${name} PROPERTIES TIMEOUT 180 LABELS "${ARG_LABELS}")
  if(serial IN_LIST ARG_LABELS)
    set_tests_properties(${name} PROPERTIES RUN_SERIAL ON)
  endif()
endfunction()
