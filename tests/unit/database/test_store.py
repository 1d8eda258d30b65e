"""The store: transactions, relations, generations, the file."""

import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from xenstack.host.database.store import Store
from xenstack.xenapi.errors import HandleInvalid, UuidInvalid
from xenstack.xenapi.model import NULL


@pytest.fixture
def store() -> Store:
    return Store()


def everything(cls: str, ref: str) -> bool:
    return True


def test_a_new_record_has_the_models_defaults_and_a_uuid(store: Store) -> None:
    ref = store.create("VM", {"name_label": "a"})
    record = store.record("VM", ref)
    assert record["name_label"] == "a"
    assert record["power_state"] == "Halted"
    assert record["HVM_shadow_multiplier"] == 1.0
    assert store.by_uuid("VM", record["uuid"]) == ref
    assert set(record) == set(store.model.classes["VM"].fields)


def test_what_is_not_there_is_told_by_name(store: Store) -> None:
    for call in (
        lambda: store.record("VM", "x"),
        lambda: store.get("VM", "x", "uuid"),
        lambda: store.delete("VM", "x"),
    ):
        with pytest.raises(HandleInvalid):
            call()
    with pytest.raises(HandleInvalid):
        store.set("VM", "x", name_label="")
    with pytest.raises(UuidInvalid):
        store.by_uuid("VM", "x")
    assert not store.exists("VM", "x")


def test_a_taken_uuid_is_refused_and_nothing_stays(store: Store) -> None:
    uuid = store.get("VM", store.create("VM", {}), "uuid")
    with pytest.raises(UuidInvalid):
        store.create("VM", {"uuid": uuid})
    assert len(store.refs("VM")) == 1


def test_reverse_sets_follow_the_reference(store: Store) -> None:
    one, two = store.create("VM", {}), store.create("VM", {})
    vbd = store.create("VBD", {"VM": one})
    assert store.get("VM", one, "VBDs") == [vbd]
    store.set("VBD", vbd, VM=two)
    assert (store.get("VM", one, "VBDs"), store.get("VM", two, "VBDs")) == ([], [vbd])
    store.delete("VBD", vbd)
    assert store.get("VM", two, "VBDs") == []


def test_reverse_sets_of_sets(store: Store) -> None:
    group = store.create("VM_group", {})
    vm = store.create("VM", {"groups": [group]})
    assert store.get("VM_group", group, "VMs") == [vm]
    store.set("VM", vm, groups=[])
    assert store.get("VM_group", group, "VMs") == []


def test_computed_sets_cannot_be_set_but_a_record_can_be_copied_whole(store: Store) -> None:
    vm = store.create("VM", {})
    store.create("VBD", {"VM": vm})
    with pytest.raises(KeyError):
        store.set("VM", vm, VBDs=[])
    copy = store.create("VM", {**store.record("VM", vm), "uuid": ""})
    assert store.get("VM", copy, "VBDs") == []


def test_a_parent_that_comes_later_finds_its_children(store: Store) -> None:
    vbd = store.create("VBD", {"VM": "OpaqueRef:later"})
    store.create("VM", {}, ref="OpaqueRef:later")
    assert store.get("VM", "OpaqueRef:later", "VBDs") == [vbd]


def test_readers_cannot_change_records(store: Store) -> None:
    vm = store.create("VM", {"other_config": {"a": "b"}})
    store.record("VM", vm)["other_config"]["x"] = "y"
    store.get("VM", vm, "other_config")["x"] = "y"
    assert store.get("VM", vm, "other_config") == {"a": "b"}


def test_an_exception_puts_everything_back(store: Store) -> None:
    vm = store.create("VM", {"name_label": "before"})
    vbd = store.create("VBD", {"VM": vm})
    generation = store.generation

    def fail() -> None:
        with store.transaction():
            store.set("VM", vm, name_label="after")
            store.delete("VBD", vbd)
            store.create("VM", {})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert store.get("VM", vm, "name_label") == "before"
    assert store.get("VM", vm, "VBDs") == [vbd]
    assert store.refs("VM") == [vm]
    assert store.changes(generation, everything) == (generation, [])


def test_a_caught_inner_failure_undoes_only_the_inner_block(store: Store) -> None:
    vm = store.create("VM", {})

    def fail() -> None:
        with store.transaction():
            store.set("VM", vm, name_label="inner")
            raise RuntimeError

    with store.transaction():
        store.set("VM", vm, name_label="outer")
        with pytest.raises(RuntimeError):
            fail()
    assert store.get("VM", vm, "name_label") == "outer"


def test_an_unchanged_write_is_no_event(store: Store) -> None:
    vm = store.create("VM", {"name_label": "a"})
    generation = store.generation
    store.set("VM", vm, name_label="a")
    with store.transaction():
        store.set("VM", vm, name_label="b")
        store.set("VM", vm, name_label="a")
    assert store.generation == generation


def test_changes_tell_what_happened_since(store: Store) -> None:
    old, gone = store.create("VM", {}), store.create("VM", {})
    since = store.generation
    store.set("VM", old, name_label="x")
    new = store.create("VM", {})
    store.delete("VM", gone)
    brief = store.create("VM", {})
    store.delete("VM", brief)
    looked = store.changes(since, everything)
    assert looked is not None
    found = {c.ref: ("del" if c.record is None else "add" if c.added else "mod") for c in looked[1]}
    assert found == {old: "mod", new: "add", gone: "del", brief: "del"}
    assert store.changes(looked[0], everything) == (looked[0], [])
    first = store.changes(0, everything)
    assert first is not None
    assert {c.ref for c in first[1]} == {old, new}


def test_changes_of_the_future_or_of_forgotten_times_cannot_be_told(store: Store, monkeypatch) -> None:
    monkeypatch.setattr("xenstack.host.database.store._DELETIONS_KEPT", 2)
    assert store.changes(store.generation + 1, everything) is None
    since = store.generation
    for _ in range(4):
        store.delete("VM", store.create("VM", {}))
    assert store.changes(since, everything) is None
    assert store.changes(store.generation, everything) is not None


def test_inject_makes_an_event_for_an_unchanged_object(store: Store) -> None:
    vm = store.create("VM", {})
    since = store.generation
    assert store.inject("VM", vm) > since
    looked = store.changes(since, everything)
    assert looked is not None
    assert [(c.ref, c.added) for c in looked[1]] == [(vm, False)]


def test_the_file_brings_everything_back(tmp_path: Path) -> None:
    file = tmp_path / "db"
    store = Store(file)
    vm = store.create("VM", {"name_label": "é", "other_config": {"a": "b"}})
    vbds = [store.create("VBD", {"VM": vm}) for _ in range(3)]
    store.create("session", {})
    store.delete("VM", store.create("VM", {}))
    generation = store.generation
    store.close()
    again = Store(file)
    assert again.record("VM", vm)["other_config"] == {"a": "b"}
    assert again.get("VM", vm, "VBDs") == vbds
    assert again.refs("session") == []
    assert again.refs("VM") == [vm]
    assert again.generation == generation
    assert again.changes(generation, everything) == (generation, [])
    assert again.changes(generation - 1, everything) is None


def test_a_commit_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    vm = store.create("VM", {"name_label": "a"})
    with pytest.raises(TypeError):
        store.set("VM", vm, name_label=object())
    assert store.get("VM", vm, "name_label") == "a"
    store.set("VM", vm, name_label="b")
    assert Store(tmp_path / "db").get("VM", vm, "name_label") == "b"


def test_threads_take_turns(store: Store) -> None:
    vm = store.create("VM", {})

    def work() -> None:
        for _ in range(100):
            with store.transaction():
                store.set("VM", vm, user_version=store.get("VM", vm, "user_version") + 1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert store.get("VM", vm, "user_version") == 400


class Relations(RuleBasedStateMachine):
    """Whatever happens, VM.VBDs and VDI.VBDs are exactly what the VBDs say."""

    @initialize()
    def begin(self) -> None:
        self.store = Store()
        self.vms = [self.store.create("VM", {}) for _ in range(2)]
        self.vdis = [self.store.create("VDI", {}) for _ in range(2)]
        self.vbds: list[str] = []

    @rule(vm=st.integers(0, 1), vdi=st.integers(-1, 1))
    def create(self, vm: int, vdi: int) -> None:
        target = NULL if vdi < 0 else self.vdis[vdi]
        self.vbds.append(self.store.create("VBD", {"VM": self.vms[vm], "VDI": target}))

    @rule(which=st.integers(0, 20), vm=st.integers(0, 1), vdi=st.integers(-1, 1), fail=st.booleans())
    def move(self, which: int, vm: int, vdi: int, fail: bool) -> None:
        if self.vbds:
            try:
                with self.store.transaction():
                    ref = self.vbds[which % len(self.vbds)]
                    self.store.set("VBD", ref, VM=self.vms[vm], VDI=NULL if vdi < 0 else self.vdis[vdi])
                    if fail:
                        raise RuntimeError
            except RuntimeError:
                pass

    @rule(which=st.integers(0, 20))
    def delete(self, which: int) -> None:
        if self.vbds:
            self.store.delete("VBD", self.vbds.pop(which % len(self.vbds)))

    @invariant()
    def sets_are_true(self) -> None:
        for cls, field, refs in (("VM", "VM", self.vms), ("VDI", "VDI", self.vdis)):
            for ref in refs:
                assert set(self.store.get(cls, ref, "VBDs")) == set(self.store.where("VBD", **{field: ref}))


TestRelations = Relations.TestCase
TestRelations.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
