"""The declaration: all of it can be read, and what we added to it fits."""

import pytest

from xenstack.xenapi.model import NULL, Type, load, parse_type

MODEL = load()


def test_the_declaration_is_complete() -> None:
    assert len(MODEL.classes) == 72
    assert len(MODEL.messages) == 2007
    assert sum(message.implicit for message in MODEL.messages.values()) == 1456
    assert sum(len(cls.fields) for cls in MODEL.classes.values()) == 922


@pytest.mark.parametrize("relation", MODEL.relations, ids=lambda r: f"{r.parent}.{r.many}")
def test_a_relation_joins_fields_that_fit(relation) -> None:
    one = MODEL.classes[relation.child].fields[relation.one].type
    many = MODEL.classes[relation.parent].fields[relation.many].type
    assert one in (Type("ref", relation.parent), Type("set", item=Type("ref", relation.parent)))
    assert many == Type("set", item=Type("ref", relation.child))


@pytest.mark.parametrize("cls", MODEL.classes)
def test_defaults_are_of_their_fields_types(cls: str) -> None:
    for each in MODEL.record_fields(cls):
        value = MODEL.default(cls, each.name)
        match each.type.kind:
            case "enum":
                assert value in MODEL.enums[each.type.name]
            case "int":
                assert type(value) is int
            case "float":
                assert type(value) is float
            case "bool":
                assert type(value) is bool
            case "ref":
                assert value == NULL
            case "set":
                assert value == []
            case "map":
                assert value == {}


def test_a_default_is_fresh_each_time() -> None:
    MODEL.default("VM", "other_config")["x"] = "y"
    assert MODEL.default("VM", "other_config") == {}


@pytest.mark.parametrize(
    "text",
    ["string", "VM ref set", "enum vm_power_state", "(VM ref -> (string -> string) map) map", "sr_stat record option",
     "(string -> enum task_allowed_operations) map", "int", "(int -> float) map", "string set"],
)  # fmt: skip
def test_types_read_as_they_are_written(text: str) -> None:
    assert str(parse_type(text)) == text


@pytest.mark.parametrize("text", ["", "VM", "(string -> string)", "(string string) map", "string ref ref set x", "set"])
def test_what_is_no_type_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_type(text)


def test_every_enum_that_a_type_names_is_there() -> None:
    def enums(of: Type | None) -> set[str]:
        if of is None:
            return set()
        return ({of.name} if of.kind == "enum" else set()) | enums(of.key) | enums(of.item)

    for message in MODEL.messages.values():
        for each in (message.result, *(p.type for p in message.parameters)):
            assert enums(each) <= MODEL.enums.keys(), message.full_name


def test_logins_alone_need_no_session() -> None:
    without = {m.full_name for m in MODEL.messages.values() if not m.needs_session}
    assert without == {"session.login_with_password", "session.slave_local_login_with_password"}
