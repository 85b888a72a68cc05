//! Shared parts of the benchmarks: workloads and reports.
