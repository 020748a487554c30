//! Benchmarks: criterion benches and the scheduling benchmark program.
