"""`python -m zmqtasks`, the same as the command `zmqtasks`."""

import sys

from zmqtasks.cli import main

sys.exit(main())
