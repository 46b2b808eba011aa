"""The parts of `ci/gpu-suite`: Python's own library and nothing else."""
