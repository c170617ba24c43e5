"""Progress of an eager solve: a tqdm bar, or the user's callable."""

from __future__ import annotations

from collections.abc import Callable

from .._base.errors import InputError

__all__ = ["reporter"]


def reporter(
    wish: bool | Callable[[float], object],
) -> tuple[Callable[[float], object], Callable[[], None]]:
    """``report(part done)`` and ``close()`` for ``solve(progress=wish)``.

    Raises
    ------
    InputError
        If a bar is asked for and tqdm is missing, or the wish is neither a bool nor callable.
    """
    if callable(wish):
        return wish, lambda: None
    if wish is not True:
        raise InputError(f"`progress` is {wish!r}; pass True for a bar, or a callable.")
    try:
        from tqdm import tqdm
    except ImportError:
        raise InputError(
            "`progress` is True, which needs tqdm: install it, or pass a callable."
        ) from None
    bar = tqdm(total=1.0, bar_format="{percentage:3.0f}% |{bar}| {elapsed} < {remaining}")
    return lambda part: bar.update(max(0.0, min(1.0, part) - bar.n)) and None, bar.close
