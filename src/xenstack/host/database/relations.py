"""How the sets that follow from references are kept: VM.VBDs from VBD.VM, and every other relation of the model."""

from collections.abc import Iterator, Mapping
from typing import Any

from xenstack.xenapi.model import Model


def _targets(value: Any) -> list[str]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


class Relations:
    """The model's relations, ready for use."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._kept = {
            cls: frozenset(relation.many for relation in relations) for cls, relations in model.children.items()
        }

    def kept(self, cls: str) -> frozenset[str]:
        """The fields of a class that follow from references of others."""
        return self._kept[cls]

    def children(
        self, tables: Mapping[str, Mapping[str, Mapping[str, Any]]], cls: str, many: str, ref: str
    ) -> list[str]:
        """Who points to `ref` already, for an object that is created after those that refer to it."""
        found = []
        for relation in self._model.children[cls]:
            if relation.many == many:
                found += [
                    child for child, record in tables[relation.child].items() if ref in _targets(record[relation.one])
                ]
        return found

    def moves(self, cls: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, str, str, bool]]:
        """(parent class, parent, field, joined) for every set that an object leaves or joins when it changes."""
        for relation in self._model.parents[cls]:
            before, after = _targets(old.get(relation.one)), _targets(new.get(relation.one))
            if before == after:
                continue
            for parent in before:
                if parent not in after:
                    yield relation.parent, parent, relation.many, False
            for parent in after:
                if parent not in before:
                    yield relation.parent, parent, relation.many, True
