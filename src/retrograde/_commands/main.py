"""The command line: ``retrograde demo`` (what runs when nothing is named), ``compare``, ``info``.

What a user does wrong is one line on standard error and exit code 2, without a traceback.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from .._base import __version__
from .._base.errors import InputError, PlanInfeasible, RetrogradeError

__all__ = ["main"]

USAGE_ERROR, FAILURE, INTERRUPTED = 2, 1, 130


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
    if not words or (words[0].startswith("-") and words[0] not in _OF_ALL):
        words.insert(0, "demo")
    try:
        options = _parser().parse_args(words)
        return int(options.command(options))
    except SystemExit as stop:  # argparse has said what there was to say
        return stop.code if isinstance(stop.code, int) else USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    except RetrogradeError as error:
        print(f"retrograde: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE_ERROR if isinstance(error, _WRONG_INPUT) else FAILURE
    except BrokenPipeError:  # the reader of a pipe has gone: nothing is left to say
        sys.stderr.close()
        return FAILURE


_OF_ALL = ("-h", "--help", "--version")
_WRONG_INPUT = (InputError, PlanInfeasible)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="retrograde", description="Differentiable ODE solves within a budget.")
    parser.add_argument("--version", action="version", version=f"retrograde {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="{demo,compare,info}", required=True)
    demo = commands.add_parser(
        "demo",
        help="fit lynx and hare on every library here, within a memory budget (the default)",
        description="Fit Lotka-Volterra to the Hudson's Bay lynx and hare, 1900-1920, on every "
        "array library here; measure each gradient's memory against the budget.",
    )
    demo.add_argument("--memory", default="96KiB", help="budget of a gradient (96KiB)")
    demo.add_argument(
        "--backends", default=None, type=_names, help="libraries, comma-separated (all)"
    )
    demo.add_argument("--starts", default=64, type=_count, help="first guesses at once (64)")
    demo.add_argument("--plot", metavar="FILE", help="draw fit and live bytes into this file")
    demo.add_argument("--quiet", action="store_true", help="no progress bar")
    demo.add_argument("--progress", action="store_true", help="a progress bar in any case")
    demo.set_defaults(command=_demo)
    _add_compare(commands)
    info = commands.add_parser("info", help="array libraries found, devices, memory")
    info.set_defaults(command=_info)
    return parser


def _add_compare(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="memory, time and error of gradient methods on this machine, other packages included",
        description="For two problems, one with constant steps and one with adaptive ones: bytes "
        "kept and at the peak, time, compile time and error of every gradient method here, and "
        "of those of diffrax, equinox, torchdiffeq and torchode where they are installed.",
    )
    compare.add_argument(
        "--backends", default=None, type=_names, help="libraries, comma-separated (all)"
    )
    compare.add_argument(
        "--problems", default=None, type=_problems, help="toy, lotka_volterra (both)"
    )
    compare.add_argument("--quick", action="store_true", help="few, short repeats")
    compare.add_argument(
        "--json", metavar="FILE", nargs="?", const="-",
        help="write the figures into FILE, or without one print them in place of the table",
    )  # fmt: skip
    compare.add_argument("--plot", metavar="FILE", help="draw peak bytes against time")
    compare.add_argument("--quiet", action="store_true", help="no progress bar")
    compare.add_argument("--progress", action="store_true", help="a progress bar in any case")
    compare.set_defaults(command=_compare)


def _problems(text: str) -> tuple[str, ...]:
    from .compare import PROBLEMS

    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in PROBLEMS]
    if unknown or not names:
        what = f"{unknown[0]!r} is no problem" if unknown else "no name given"
        raise argparse.ArgumentTypeError(f"{what}; choose from {', '.join(PROBLEMS)}")
    return names


def _names(text: str) -> tuple[str, ...]:
    from .info import INSTALL

    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in INSTALL]
    if unknown or not names:
        what = f"{unknown[0]!r} is no array library with an adapter" if unknown else "no name given"
        raise argparse.ArgumentTypeError(f"{what}; choose from {', '.join(INSTALL)}")
    return names


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_STARTS:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to {MOST_STARTS}")
    return int(text)


MOST_STARTS = 4096


def _demo(options: argparse.Namespace) -> int:
    from .demo import Options, run
    from .info import INSTALL

    return run(
        Options(
            options.memory,
            options.backends or tuple(INSTALL),
            options.starts,
            options.plot,
            options.quiet,
            options.progress,
        )
    )


def _compare(options: argparse.Namespace) -> int:
    from .compare import PROBLEMS, Options, run
    from .info import INSTALL

    return run(
        Options(
            options.backends or tuple(INSTALL),
            tuple(PROBLEMS[name]() for name in options.problems or PROBLEMS),
            options.quick,
            options.json,
            options.plot,
            options.quiet,
            options.progress,
        )
    )


def _info(options: argparse.Namespace) -> int:
    from .info import describe_installation

    for line in describe_installation():
        print(line)
    return 0
