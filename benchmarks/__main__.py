"""`python -m benchmarks`."""

from dmgan_runtime.commands import launch

if __name__ == "__main__":
    launch("benchmarks.cli", "benchmark", "python -m benchmarks")
