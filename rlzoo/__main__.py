"""`python -m rlzoo`: the command line, quiet on Ctrl-C while it is still being imported."""

import sys


def main() -> int:
    try:
        from rlzoo.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the working directory: it may be a stranger's, with a numpy.py in it
    sys.exit(main())
