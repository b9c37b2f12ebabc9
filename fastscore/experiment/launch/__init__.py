"""The program ``fastscore``. Installed beside the package, as ``fastscore_launch``, since importing the package takes
seconds, and Ctrl-C may come in them."""

import contextlib
import os
import signal
import sys


def main() -> None:
    """``cli.main``, with Ctrl-C answered from the start and SIGTERM as an orderly end (exit code 143)."""
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not under nohup, say
    if heard:
        signal.signal(signal.SIGINT, _stop)
    from fastscore.experiment import cli

    if heard:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    cli.main()


def _stop(number: int, frame: object) -> None:
    """End at once: an exception inside the import of compiled code may come out as another, or not at all."""
    with contextlib.suppress(OSError):
        os.write(2, b"\nstopped\n")
    os._exit(128 + number)


if __name__ == "__main__":
    main()
