"""All commands by their names, the command ``fastscore doctor``, and ``main``."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from ... import __version__
from ..._core.errors import require
from .. import terminal
from ..ranks import title
from ..reproduce.request import ABLE, Request
from .classifier import train_classifier
from .compare import compare_samplers
from .flags import annotate, annotate_plain, annotate_reproduce, annotate_samplers
from .inspect import inspect
from .reproduce import reproduce
from .runs import export, import_, status
from .sampling import evaluate, sample
from .train import train

_INTRODUCTION = """\
Score-based generative models: learn how to turn noise into samples of your data.

A network learns the score, the direction in which a noisy image becomes more likely, at several levels of noise
(fastscore train). From pure noise, small steps along the score, level after level, lead to new images
(fastscore sample). Start with:  fastscore train digits"""


def doctor() -> None:
    """Say what this machine can do: versions, devices, which backend serves which operator, what is missing."""
    from .. import doctor as examination

    print(examination.report())


def _commands(tyro: Any) -> dict[str, Any]:
    """The commands by name, annotated as tyro wants them."""
    annotate(train, sample, evaluate, tyro)
    annotate_samplers(compare_samplers, tyro)
    annotate_reproduce(reproduce, Request, ABLE, tyro)
    annotate_plain((compare_samplers, inspect, import_, export, train_classifier), tyro)
    return {
        "train": train,
        "sample": sample,
        "evaluate": evaluate,
        "compare-samplers": compare_samplers,
        "reproduce": reproduce,
        "train-classifier": train_classifier,
        "inspect": inspect,
        "status": status,
        "import": import_,
        "export": export,
        "doctor": doctor,
    }


def _call(arguments: list[str]) -> None:
    """Run the command that ``arguments`` name."""
    if arguments == ["--version"]:
        print(f"fastscore {__version__}")
        return
    tyro = require("tyro", "train")
    tyro.extras.subcommand_cli_from_dict(
        _commands(tyro),
        prog="fastscore",
        description=_INTRODUCTION,
        args=arguments,
        config=(tyro.conf.CascadeSubcommandArgs,),
    )


def main(arguments: list[str] | None = None) -> None:
    """Run a command; errors that a user can act on are one line on standard error and exit code 2 (Ctrl-C: 130)."""
    terminal.open_streams()
    arguments = sys.argv[1:] if arguments is None else arguments
    warnings.showwarning = lambda message, *_, **__: print(f"warning{title()}: {message}", file=sys.stderr)
    try:
        terminal.check_text(arguments)
        with terminal.printing():
            _call(arguments)
    except BrokenPipeError:  # the reader of our output went away, as in: fastscore train --help | head
        sys.stderr.close()
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"\nstopped{title()}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        line = terminal.report(error, arguments)
        if line is None:
            raise
        print(f"error{title()}: {line}", file=sys.stderr)
        sys.exit(2)
