"""VM: the setters with rules of their own. xapi's checks: memory limits in order, CPUs within bounds, halted only."""

from collections.abc import Callable
from typing import Any

from xenstack.host.calls.call import Context, call
from xenstack.host.operations import allowed, busy, translate
from xenstack.xenapi.errors import (
    InvalidValue,
    MapDuplicateKey,
    MemoryConstraintViolationOrder,
    VmBiosStringsAlreadySet,
)

_CPUS_AT_START = "VCPU values must satisfy: 0 < VCPUs_at_startup ≤ VCPUs_max"
_CPUS_LIVE = "VCPU values must satisfy: 0 < VCPUs ≤ VCPUs_max"


def _check_memory(static_min: int, dynamic_min: int, dynamic_max: int, static_max: int) -> None:
    if not 0 <= static_min <= dynamic_min <= dynamic_max <= static_max:
        raise MemoryConstraintViolationOrder()


def _set_memory(context: Context, vm: str, operation: str, **fields: int) -> None:
    """Change some of the four limits; all four stay in order. On a running VM the guest is told of its new target."""
    store = context.store
    with store.transaction():
        busy.check(store, "VM", vm, operation)
        limits = {
            name: fields.get(name, store.get("VM", vm, name))
            for name in ("memory_static_min", "memory_dynamic_min", "memory_dynamic_max", "memory_static_max")
        }
        _check_memory(*limits.values())
        store.set("VM", vm, **fields)
        running = store.get("VM", vm, "power_state") == "Running"
    if running and "memory_dynamic_max" in fields:
        _set_target(context, vm, fields["memory_dynamic_max"])


def _set_target(context: Context, vm: str, target: int) -> None:
    with translate.spoken(context.store, "VM.set_memory_target_live", vm):
        context.hypervisor.set_memory_target(context.store.get("VM", vm, "uuid"), target)
    context.store.set("VM", vm, memory_target=target)


@call("VM.set_memory_limits")
def set_memory_limits(
    context: Context, self: str, static_min: int, static_max: int, dynamic_min: int, dynamic_max: int
) -> None:
    _set_memory(
        context,
        self,
        "changing_memory_limits",
        memory_static_min=static_min,
        memory_static_max=static_max,
        memory_dynamic_min=dynamic_min,
        memory_dynamic_max=dynamic_max,
    )


@call("VM.set_memory")
def set_memory(context: Context, self: str, value: int) -> None:
    """The same for the dynamic limits and the static maximum."""
    if value < 0:
        raise MemoryConstraintViolationOrder()
    static_min = min(context.store.get("VM", self, "memory_static_min"), value)
    set_memory_limits(context, self, static_min, value, value, value)


@call("VM.set_memory_static_range")
def set_memory_static_range(context: Context, self: str, min: int, max: int) -> None:
    _set_memory(context, self, "changing_static_range", memory_static_min=min, memory_static_max=max)


@call("VM.set_memory_static_min")
def set_memory_static_min(context: Context, self: str, value: int) -> None:
    _set_memory(context, self, "changing_static_range", memory_static_min=value)


@call("VM.set_memory_static_max")
def set_memory_static_max(context: Context, self: str, value: int) -> None:
    _set_memory(context, self, "changing_static_range", memory_static_max=value)


@call("VM.set_memory_dynamic_range")
def set_memory_dynamic_range(context: Context, self: str, min: int, max: int) -> None:
    _set_memory(context, self, "changing_dynamic_range", memory_dynamic_min=min, memory_dynamic_max=max)


@call("VM.set_memory_dynamic_min")
def set_memory_dynamic_min(context: Context, self: str, value: int) -> None:
    _set_memory(context, self, "changing_dynamic_range", memory_dynamic_min=value)


@call("VM.set_memory_dynamic_max")
def set_memory_dynamic_max(context: Context, self: str, value: int) -> None:
    _set_memory(context, self, "changing_dynamic_range", memory_dynamic_max=value)


@call("VM.set_memory_target_live")
def set_memory_target_live(context: Context, self: str, target: int) -> None:
    busy.check(context.store, "VM", self, "changing_memory_live")
    _set_target(context, self, target)


@call("VM.wait_memory_target_live")
def wait_memory_target_live(context: Context, self: str) -> None:
    """The balloon follows its target by itself; nobody is kept waiting for a guest."""
    busy.check(context.store, "VM", self, "awaiting_memory_live")


@call("VM.set_VCPUs_max")
def set_VCPUs_max(context: Context, self: str, value: int) -> None:
    store = context.store
    with store.transaction():
        busy.check(store, "VM", self, "changing_VCPUs")
        if value <= 0 or value < store.get("VM", self, "VCPUs_at_startup"):
            raise InvalidValue(_CPUS_AT_START, str(value))
        store.set("VM", self, VCPUs_max=value)


@call("VM.set_VCPUs_at_startup")
def set_VCPUs_at_startup(context: Context, self: str, value: int) -> None:
    """More than VCPUs_max is taken, too, as on xapi; the start then has as many as are asked for here."""
    if value <= 0:
        raise InvalidValue(_CPUS_AT_START, str(value))
    context.store.set("VM", self, VCPUs_at_startup=value)


@call("VM.set_VCPUs_number_live")
def set_VCPUs_number_live(context: Context, self: str, nvcpu: int) -> None:
    store = context.store
    busy.check(store, "VM", self, "changing_VCPUs_live")
    if not 0 < nvcpu <= store.get("VM", self, "VCPUs_max"):
        raise InvalidValue(_CPUS_LIVE, str(nvcpu))
    with translate.spoken(store, "VM.set_VCPUs_number_live", self):
        context.hypervisor.set_vcpus(store.get("VM", self, "uuid"), nvcpu)
    metrics = store.get("VM", self, "metrics")
    if store.exists("VM_metrics", metrics):
        store.set("VM_metrics", metrics, VCPUs_number=nvcpu)


@call("VM.set_HVM_shadow_multiplier")
def set_HVM_shadow_multiplier(context: Context, self: str, value: float) -> None:
    busy.check(context.store, "VM", self, "changing_shadow_memory")
    if value <= 0.0:
        raise InvalidValue("multiplier", f"{value:g}.")
    context.store.set("VM", self, HVM_shadow_multiplier=value)


@call("VM.set_bios_strings")
def set_bios_strings(context: Context, self: str, value: dict[str, str]) -> None:
    store = context.store
    with store.transaction():
        if store.get("VM", self, "bios_strings"):
            raise VmBiosStringsAlreadySet()
        store.set("VM", self, bios_strings=value)


@call("VM.set_has_vendor_device")
def set_has_vendor_device(context: Context, self: str, value: bool) -> None:
    busy.check(context.store, "VM", self, "changing_VCPUs")
    context.store.set("VM", self, has_vendor_device=value)


@call("VM.set_ha_restart_priority")
def set_ha_restart_priority(context: Context, self: str, value: str) -> None:
    if value not in ("", "restart", "best-effort"):
        raise InvalidValue("ha_restart_priority", value)
    context.store.set("VM", self, ha_restart_priority=value)


def _not_negative(field: str) -> Callable[[Context, str, int], None]:
    def setter(context: Context, self: str, value: int) -> None:
        if value < 0:
            raise InvalidValue(f"{field} must be non-negative", str(value))
        context.store.set("VM", self, **{field: value})

    return setter


for _field in ("order", "start_delay", "shutdown_delay"):
    call(f"VM.set_{_field}")(_not_negative(_field))


def _stored(field: str) -> Callable[[Context, str, Any], None]:
    def setter(context: Context, self: str, value: Any) -> None:
        context.store.set("VM", self, **{field: value})

    return setter


for _field in ("HVM_boot_policy", "domain_type", "actions_after_crash", "ha_always_run", "platform", "other_config"):
    call(f"VM.set_{_field}")(_stored(_field))


def _added(field: str) -> Callable[[Context, str, str, str], None]:
    def setter(context: Context, self: str, key: str, value: str) -> None:
        store = context.store
        with store.transaction():
            held = store.get("VM", self, field)
            if key in held:
                raise MapDuplicateKey("VM", field, self, key)
            store.set("VM", self, **{field: {**held, key: value}})
            allowed.vm(store, self)

    return setter


def _removed(field: str) -> Callable[[Context, str, str], None]:
    def setter(context: Context, self: str, key: str) -> None:
        store = context.store
        with store.transaction():
            held = store.get("VM", self, field)
            held.pop(key, None)
            store.set("VM", self, **{field: held})
            allowed.vm(store, self)

    return setter


for _field in ("platform", "other_config", "blocked_operations"):
    call(f"VM.add_to_{_field}")(_added(_field))
    call(f"VM.remove_from_{_field}")(_removed(_field))


@call("VM.set_blocked_operations")
def set_blocked_operations(context: Context, self: str, value: dict[str, str]) -> None:
    with context.store.transaction():
        context.store.set("VM", self, blocked_operations=value)
        allowed.vm(context.store, self)


@call("VM.set_NVRAM")
def set_NVRAM(context: Context, self: str, value: dict[str, str]) -> None:
    busy.check(context.store, "VM", self, "changing_NVRAM")
    context.store.set("VM", self, NVRAM=value)
