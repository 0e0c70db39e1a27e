//! A low-latency runtime for Selftok: pictures to tokens and back, and the networks it is made of.
