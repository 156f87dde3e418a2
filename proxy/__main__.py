"""`python -m proxy` is `autopay`."""

import sys

from proxy.cli import main

sys.exit(main())
