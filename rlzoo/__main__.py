"""`python -m rlzoo`: the command line, quiet on Ctrl-C while it is still being imported."""

import os
import sys


def main() -> int:
    open_standard_streams()
    try:
        from rlzoo.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        return 130


def open_standard_streams() -> None:
    """Stand in for those that are closed (`2>&-`): the next file to be opened would be in their
    place, and get what is printed. Printing to a closed stdout fails, as it should.
    """
    for number, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest free number
    sys.stdout = sys.stdout or open(1, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115


if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the working directory: it may be a stranger's, with a numpy.py in it
    sys.exit(main())
