# The server's page in the binary: tools/embed_files.py turns src/server/page into one C++ file (server/page/page.h).
find_package(Python3 REQUIRED COMPONENTS Interpreter)

function(tandem_embed_page target)
  set(folder ${CMAKE_SOURCE_DIR}/src/server/page)
  file(GLOB files CONFIGURE_DEPENDS ${folder}/*.html ${folder}/*.js ${folder}/*.css ${folder}/*.svg)
  set(source ${CMAKE_BINARY_DIR}/generated/page_files.cc)
  file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/generated)
  add_custom_command(
    OUTPUT ${source}
    COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/tools/embed_files.py ${source} ${files}
    DEPENDS ${files} ${CMAKE_SOURCE_DIR}/tools/embed_files.py
    COMMENT "Embedding the page"
    VERBATIM)
  target_sources(${target} PRIVATE ${source})
endfunction()
