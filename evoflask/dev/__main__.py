"""`python -m evoflask.dev [--with-parent]`: the supervisor, see there.

`--with-parent`: stop when whoever started us ends, as `make run` wants it.
"""

import os
import signal
import sys

from evoflask.dev.process import die_with_parent
from evoflask.dev.supervisor import main

if __name__ == "__main__":
    if "--with-parent" in sys.argv[1:]:
        die_with_parent(signal.SIGTERM, os.getppid())
    sys.exit(main())
