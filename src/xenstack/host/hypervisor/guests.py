"""How simulated guests behave when they are asked something: what tests set."""

from dataclasses import dataclass, field


@dataclass
class Guests:
    """How guests behave, by uuid; "*" means every guest."""

    ignore_power_button: set[str] = field(default_factory=set)
    keep_devices: set[str] = field(default_factory=set)

    def ignores_power_button(self, uuid: str) -> bool:
        return uuid in self.ignore_power_button or "*" in self.ignore_power_button

    def keeps_devices(self, uuid: str) -> bool:
        return uuid in self.keep_devices or "*" in self.keep_devices
