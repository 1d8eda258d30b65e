"""Who uses a VDI now: any number of readers, or one writer. Both adapters keep their users here.

Nothing here locks: the owner calls under its own lock. Nothing is kept on disk: see the port's rule about users.
"""

from xenstack.host.storage.port import VdiInUse


class Claims:
    """The users of the VDIs of one SR. Invariant: a VDI with a writer has that one user."""

    def __init__(self) -> None:
        self._users: dict[str, dict[str, bool]] = {}  # vdi -> user -> read_only

    def take(self, vdi: str, user: str, *, read_only: bool) -> None:
        """Register a user; the same claim again changes nothing. Raises VdiInUse."""
        others = {u: ro for u, ro in self._users.get(vdi, {}).items() if u != user}
        if others and not (read_only and all(others.values())):
            raise VdiInUse(vdi, tuple(sorted(others)))
        self._users.setdefault(vdi, {})[user] = read_only

    def drop(self, vdi: str, user: str) -> None:
        """Forget a user. No error when there is none."""
        if users := self._users.get(vdi):
            users.pop(user, None)
            if not users:
                del self._users[vdi]

    def users(self, vdi: str) -> tuple[str, ...]:
        """The users of a VDI, sorted."""
        return tuple(sorted(self._users.get(vdi, {})))

    def used(self) -> list[str]:
        """Every VDI with a user."""
        return sorted(self._users)

    def check_unused(self, vdi: str) -> None:
        """Raises VdiInUse when the VDI has any user."""
        if users := self.users(vdi):
            raise VdiInUse(vdi, users)

    def check_no_writer(self, vdi: str) -> None:
        """Raises VdiInUse when the VDI has a writer."""
        users = self._users.get(vdi, {})
        if not all(users.values()):
            raise VdiInUse(vdi, tuple(sorted(users)))
