"""Trains and evaluates a model: `python run_train.py RECIPE [--option value ...]` is `cpsl train RECIPE ...`.

For `accelerate launch run_train.py`.
"""

import sys

from cpsl import main


if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
