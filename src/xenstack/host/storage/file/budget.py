"""How much a long write may still take of an SR, without looking at the whole SR for every chunk.

Writers get space promised in steps, and what is promised to one is not there for another: the limit holds for all of
them together. Close to the limit the steps are small.
"""

from xenstack.host.storage.file.folder import Folder

_LARGEST_STEP, _SMALLEST_STEP = 64 << 20, 1 << 20


class Budget:
    """Ask `take` before writing, `close` when nothing more is written."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._left = 0

    def take(self, length: int) -> None:
        """Raises SrFull, OSError."""
        if self._left < length:
            with self._folder.lock:
                self._folder.promises[id(self)] = 0
                free = self._folder.check_space(length)
                step = min(max(free // 8, _SMALLEST_STEP), _LARGEST_STEP)
                self._left = min(free, max(step, length))
                self._folder.promises[id(self)] = self._left
        self._left -= length

    def close(self) -> None:
        """Give back what was promised."""
        with self._folder.lock:
            self._folder.promises.pop(id(self), None)
