"""`dmgan-train`."""

from dmgan_runtime.cli.common import launch


def main() -> None:
    """Runs `dmgan-train`, which is also `python -m dmgan_train`."""
    launch("dmgan_train.cli", "train", "dmgan-train")


if __name__ == "__main__":
    main()
