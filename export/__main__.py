"""`dmgan-export`."""

from dmgan_runtime.commands import launch


def main() -> None:
    """Runs `dmgan-export`."""
    launch("export.cli", "export,cpu", "dmgan-export")


if __name__ == "__main__":
    main()
