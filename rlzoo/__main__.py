import sys

from rlzoo.cli import main

sys.exit(main())
