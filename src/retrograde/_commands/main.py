"""The command line: ``retrograde demo`` (what runs when nothing is named), ``compare``, ``info``.

What a user does wrong is one line on standard error and exit code 2, without a traceback.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from .._base import __version__
from .._base.errors import InputError, PlanInfeasible, RetrogradeError
from .._base.memory import MissingExtra
from . import info
from .compare import session as compare
from .compare.problem import PROBLEMS
from .demo import session as demo
from .terminal import one_line

USAGE_ERROR, FAILURE, INTERRUPTED = 2, 1, 130
USERS = (InputError, PlanInfeasible, MissingExtra)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors take one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str or None
        None takes those of the process.

    Returns
    -------
    int
        Exit code: 0, 1 (the demo found a budget exceeded or gradients that differ, compare an
        exact method in error, or a solve failed), 2 (wrong arguments, or a package that is
        missing).

    Examples
    --------
    >>> main(["info"])  # doctest: +ELLIPSIS
    retrograde ...
    <BLANKLINE>
    numpy ...
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help", "--version")):
        words.insert(0, "demo")
    try:
        options = vars(_parser().parse_args(words))
        return int(options.pop("run")(**options))
    except SystemExit as stop:  # argparse has said what there was to say
        return stop.code if isinstance(stop.code, int) else USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    except RetrogradeError as error:
        print(f"retrograde: {one_line(error)}", file=sys.stderr)
        return USAGE_ERROR if isinstance(error, USERS) else FAILURE
    except BrokenPipeError:  # the reader of a pipe has gone: nothing is left to say
        sys.stderr.close()
        return FAILURE


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="retrograde", description="Differentiable ODE solves within a budget.")
    parser.add_argument("--version", action="version", version=f"retrograde {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="{demo,compare,info}", required=True)

    add = commands.add_parser(
        "demo",
        help="fit lynx and hare on every library here, within a memory budget (the default)",
        description="Fit Lotka-Volterra to the Hudson's Bay lynx and hare, 1900-1920, on every "
        "array library here; measure each gradient's memory against the budget.",
    )
    add.add_argument("--memory", default="96KiB", help="budget of a gradient (96KiB)")
    _add_shared(add, "draw fit and live bytes into this file")
    add.add_argument("--starts", default=64, type=_count, help="first guesses at once (64)")
    add.set_defaults(run=lambda **options: demo.run(demo.Options(**options)))

    add = commands.add_parser(
        "compare",
        help="memory, time and error of gradient methods on this machine, other packages included",
        description="For two problems, one with constant steps and one with adaptive ones: bytes "
        "kept and at the peak, time, compile time and error of every gradient method here, and "
        "of those of diffrax, equinox, torchdiffeq and torchode where they are installed.",
    )
    _add_shared(add, "draw peak bytes against time")
    names = _names(PROBLEMS, "problem")
    add.add_argument(
        "--problems", type=lambda text: tuple(PROBLEMS[x]() for x in names(text)),
        default=compare.Options.problems, help="toy, lotka_volterra (both)",
    )  # fmt: skip
    add.add_argument("--quick", action="store_true", help="few, short repeats")
    add.add_argument(
        "--json", metavar="FILE", nargs="?", const="-",
        help="write the figures into FILE, or without one print them in place of the table",
    )  # fmt: skip
    add.set_defaults(run=lambda **options: compare.run(compare.Options(**options)))

    add = commands.add_parser("info", help="array libraries found, devices, memory")
    add.set_defaults(run=info.run)
    return parser


def _add_shared(parser: argparse.ArgumentParser, drawn: str) -> None:
    names = _names(info.INSTALL, "array library with an adapter")
    parser.add_argument(
        "--backends", default=tuple(info.INSTALL), type=names,
        help="libraries, comma-separated (all)",
    )  # fmt: skip
    parser.add_argument("--plot", metavar="FILE", help=drawn)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--progress", action="store_true", help="a progress bar in any case")


def _names(known: Mapping[str, object], what: str) -> Callable[[str], tuple[str, ...]]:
    """A reader of known names with commas between them."""

    def read(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            wrong = f"{unknown[0]!r} is no {what}" if unknown else "no name given"
            raise argparse.ArgumentTypeError(f"{wrong}; choose from {', '.join(known)}")
        return names

    return read


MOST_STARTS = 4096


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_STARTS:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to {MOST_STARTS}")
    return int(text)
