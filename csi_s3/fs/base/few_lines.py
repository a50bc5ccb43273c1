"""Log lines of which there may be many: the first are written, and how many others there were.

The others are written at the level DEBUG.
"""

import logging

LINES = 10


class FewLines:
    """Lines of one kind and one level: the first LINES, then `end` says how many were left out."""

    def __init__(self, logger: logging.Logger, level: int) -> None:
        self._log, self._level, self.count = logger, level, 0

    def log(self, text: str, *args: object, **fields: str) -> None:
        """fields: of the record, such as code."""
        self.count += 1
        level = self._level if self.count <= LINES else logging.DEBUG
        self._log.log(level, text, *args, extra=fields)

    def end(self, text: str, *args: object) -> None:
        """text: begins with the number of lines that were left out, if any were.

        The next line is the first of others.
        """
        if self.count > LINES:
            self._log.log(self._level, text, self.count - LINES, *args)
        self.count = 0
