//! The command line of the Selftok runtime.
fn main() {}
