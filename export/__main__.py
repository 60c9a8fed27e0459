"""`dmgan-export`."""

from dmgan_runtime.cli.common import launch


def main() -> None:
    """Runs `dmgan-export`."""
    launch("export.commands", "export,cpu", "dmgan-export")


if __name__ == "__main__":
    main()
