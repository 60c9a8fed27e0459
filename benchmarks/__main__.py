"""`python -m benchmarks`."""

from dmgan_runtime.cli.common import launch

if __name__ == "__main__":
    launch("benchmarks.cli", "benchmark,cpu", "python -m benchmarks")
