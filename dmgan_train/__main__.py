"""`python -m dmgan_train`."""

from dmgan_train.cli import main

if __name__ == "__main__":
    main(prog_name="python -m dmgan_train")
