"""`python -m ros2cli_standin`."""

import sys

from ros2cli_standin.cli import main

sys.exit(main())
