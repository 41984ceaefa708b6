"""Trains and evaluates CPSL: `python run_train.py RECIPE.yaml [--option value ...]`, or under `accelerate launch`."""

import sys

from modeling_cpsl.experiments.run import main


if __name__ == "__main__":
    main(sys.argv[1:])
