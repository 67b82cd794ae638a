"""`python -m evoflask.dev [--with-parent] [--all]`: the supervisor, see there.

`--with-parent`: stop when whoever started us ends, as `make run` wants it. `--all`: a server for
each sink beside it, and a demonstration.
"""

import os
import signal
import sys

from evoflask.dev.process import die_with_parent
from evoflask.dev.supervisor import main

if __name__ == "__main__":
    if "--with-parent" in sys.argv[1:]:
        die_with_parent(signal.SIGTERM, os.getppid())
    sys.exit(main(all_="--all" in sys.argv[1:]))
