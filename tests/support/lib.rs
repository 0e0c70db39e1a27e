//! Shared support of the whole-system tests and benchmarks: golden files, comparison, paths.
