"""What several benchmarks need: a running mesh, load, processes, certificates, and sections of RESULTS.md."""
