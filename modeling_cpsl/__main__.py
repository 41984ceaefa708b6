"""`python -m modeling_cpsl COMMAND` is `cpsl COMMAND`, for `accelerate launch -m modeling_cpsl train`."""

import sys

from cpsl import main


if __name__ == "__main__":
    sys.exit(main())
