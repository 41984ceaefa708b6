"""`python -m data_builders COMMAND` is `cpsl COMMAND`."""

import sys

from cpsl import main


if __name__ == "__main__":
    sys.exit(main())
