# find_package(swiftattn) defines the imported target swiftattn::swiftattn.
get_filename_component(_swiftattn_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
if(NOT TARGET swiftattn::swiftattn)
  add_library(swiftattn::swiftattn SHARED IMPORTED)
  set_target_properties(swiftattn::swiftattn PROPERTIES
    IMPORTED_LOCATION "${_swiftattn_prefix}/lib/libswiftattn.so.0"
    IMPORTED_SONAME "libswiftattn.so.0"
    INTERFACE_INCLUDE_DIRECTORIES "${_swiftattn_prefix}/include")
endif()
unset(_swiftattn_prefix)
