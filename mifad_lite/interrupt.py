"""Ctrl-C while `python -m mifad_lite` still imports: one line in place of a traceback. Imported before all else."""

import os
import signal
import sys


def stop_at_once(number: int, frame) -> None:
    """A signal's handler: end the process now."""
    os.write(2, b"mifad_lite: stopped\n")
    os._exit(128 + number)


if sys.argv[:1] == ["-m"] and "mifad_lite" in sys.orig_argv:  # not where a notebook or a script imports the package
    signal.signal(signal.SIGINT, stop_at_once)
    signal.signal(signal.SIGTERM, stop_at_once)
