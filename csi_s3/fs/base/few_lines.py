"""Log lines of which there may be many: the first are written, and how many others there were."""

import logging

LINES = 10


class FewLines:
    """Lines of one kind and one level: the first LINES, then `end` says how many were left out."""

    def __init__(self, logger: logging.Logger, level: int) -> None:
        self._log, self._level, self.count = logger, level, 0

    def log(self, text: str, *args: object, code: str = "") -> None:
        self.count += 1
        if self.count <= LINES:
            self._log.log(self._level, text, *args, extra={"code": code} if code else None)

    def end(self, text: str, *args: object) -> None:
        """text: begins with the number of lines that were left out, if any were."""
        if self.count > LINES:
            self._log.log(self._level, text, self.count - LINES, *args)
