"""The root of the tree of XenAPI errors, and how an error travels.

XenAPIError
  ├ one class per code that we raise or tell apart: its fields are the wire parameters, in wire order
  └ UnknownFailure: any other code, or a known code with other parameters; it keeps every word

Rules: a class has exactly the parameters that xapi sends with its code (recorded conversations and xapi's list of
codes are the source); parameters are strings, as on the wire; a last field that is a tuple takes whatever follows.
Subclasses are dataclasses without being decorated, so that a class is its code and its fields.
"""

import dataclasses
import re
from typing import Any, ClassVar, dataclass_transform

_NUMBERED = re.compile(r"(SR_BACKEND_FAILURE)_([0-9]{1,6})")

CODES: dict[str, type["XenAPIError"]] = {}
"""Every code that has a class of its own."""


@dataclass_transform(eq_default=False)
class XenAPIError(Exception):
    """A failure the API promises. Fields are the wire parameters, in wire order."""

    code: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(eq=False, repr=False)(cls)
        if cls.code:
            if cls.code in CODES:
                raise TypeError(f"{cls.code} has two classes")
            CODES[cls.code] = cls

    @property
    def parameters(self) -> list[str]:
        """The wire parameters: every field as a string, in order."""
        out: list[str] = []
        for each in dataclasses.fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            value = getattr(self, each.name)
            out.extend(map(str, value)) if isinstance(value, tuple) else out.append(str(value))
        return out

    def wire(self) -> list[str]:
        """What ErrorDescription holds: the code, then the parameters."""
        return [self.code, *self.parameters]

    def __str__(self) -> str:
        code, *parameters = self.wire()
        return f"{code}: {', '.join(parameters)}" if parameters else code

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.wire()}>"

    @staticmethod
    def from_wire(details: list[Any]) -> "XenAPIError":
        """The error that `details` (ErrorDescription) tells of."""
        if not details:
            return UnknownFailure("", ())
        code, *parameters = map(str, details)
        numbered = _NUMBERED.fullmatch(code)
        known = CODES.get(numbered[1] if numbered else code)
        if known is None:
            return UnknownFailure(code, tuple(parameters))
        expected = [f for f in dataclasses.fields(known) if f.init and not f.kw_only]  # type: ignore[arg-type]
        if expected and expected[-1].type in ("tuple[str, ...]", tuple[str, ...]):
            fixed = len(expected) - 1
            if len(parameters) < fixed:
                return UnknownFailure(code, tuple(parameters))
            return known(*parameters[:fixed], tuple(parameters[fixed:]))
        if len(expected) != len(parameters):
            return UnknownFailure(code, tuple(parameters))
        options: dict[str, Any] = {"number": int(numbered[2])} if numbered else {}
        return known(*parameters, **options)


class UnknownFailure(XenAPIError):
    """A failure that has no class here, word for word. The host raises it for codes that nobody tells apart."""

    failure: str
    words: tuple[str, ...] = ()

    def wire(self) -> list[str]:
        return [self.failure, *self.words]
