"""How much a long write may still take of an SR, without looking at the whole SR for every chunk."""

from xenstack.host.storage.file.folder import Folder

_STEP = 16 << 20  # look again after so many bytes: others write too


class Budget:
    """Ask `take` before writing. Concurrent writers may exceed the limit together by _STEP each."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._left = 0

    def take(self, length: int) -> None:
        """Raises SrFull, OSError."""
        if self._left < length:
            self._left = min(self._folder.check_space(length), max(_STEP, length))
        self._left -= length
