//! Graph passes: precision, fusion, constant packing and memory planning.
