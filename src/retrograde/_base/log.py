"""What is told by the way, to the logger ``retrograde`` of Python's ``logging``.

DEBUG: which plan a gradient follows and why, which program is compiled. INFO: what makes a solve
dearer than it need be (it is begun again, by another method), one that failed and was not to
raise, one that looks stiff. WARNING: a solve that takes long (``_checkpointing.patience``). Whoever
listens has imported ``logging``; until then it is not loaded, for it takes a tenth of this
package's own import.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logging import Logger

DEBUG, INFO = 10, 20
"""As in ``logging``."""

NAME = "retrograde"

_logger: Logger | None = None


def listener(level: int) -> Logger | None:
    """The logger, where somebody listens to this level.

    Examples
    --------
    >>> import logging
    >>> logging.getLogger("retrograde").setLevel(logging.INFO)
    >>> listener(DEBUG) is None, listener(INFO).name
    (True, 'retrograde')
    >>> logging.getLogger("retrograde").setLevel(logging.NOTSET)
    """
    global _logger
    if _logger is None:
        if "logging" not in sys.modules:
            return None
        _logger = _made()
    return _logger if _logger.isEnabledFor(level) else None


def warning(message: str, *arguments: object) -> None:
    """Say what people are to see who have set up nothing."""
    _made().warning(message, *arguments)


def _made() -> Logger:
    import logging

    return logging.getLogger(NAME)
