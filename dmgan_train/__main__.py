"""`python -m dmgan_train`."""

from dmgan_runtime.cli.common import launch

if __name__ == "__main__":
    launch("dmgan_train.cli", "train", "python -m dmgan_train")
