"""What ``gpumanctl init --undo`` restores: the inverse of what the swap has written, without lines edited since."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from gpumand.cli import gateway_setup
from gpumand.cli.errors import Failure
from gpumand.cli.gateway_setup import Places, Proposal, apply
from gpumand.cli.gateway_sockets import socket_units
from gpumand.cli.swap_undo.former import with_former_moves
from gpumand.cli.swap_undo.plan import UndoPlan, plan_undo
from gpumand.cli.swap_undo.record import SwapRecord, read_record, write_record
from gpumand.discovery.port_swap import Swap
from gpumand.gateway import config as gateway_config

OLLAMA = Swap("ollama", "ollama.service", 11434, 11435, drop_in="[Service]\nEnvironment=OLLAMA_HOST=127.0.0.1:11435\n")
COMFYUI = Swap("comfyui", "comfyui.service", 8188, 8189, drop_in="[Service]\nExecStart=\nExecStart=/comfyui\n")
CONTAINER = Swap("tei", "", 8080, 8081)
CONFIG = """[consumers.ollama]
unit = "ollama.service"
url = 'http://127.0.0.1:11434'   # at its usual port
vram_resident_mib = 1

[consumers.comfyui]
preset = "comfyui"
unit = "comfyui.service"
vram_resident_mib = 1
"""


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A configured host: ollama has a url of its own, comfyui that of its preset."""
    tmp_path.joinpath("gpumand.toml").write_text(CONFIG)
    tmp_path.joinpath("gateway.toml").write_text("[gateway]\nlinger_sec = 1\n")
    units = tmp_path / "units"
    units.mkdir()
    return Places(tmp_path / "gpumand.toml", tmp_path / "gateway.toml", units, tmp_path / "state/swap.json")


def tree(places: Places) -> dict[str, str]:
    """All files below the folder of the test by name, folders with an empty text."""
    top = places.gateway.parent
    return {str(one.relative_to(top)): one.read_text() if one.is_file() else "" for one in top.rglob("*")}


def swap(places: Places, *swaps: Swap) -> None:
    """Write the files of a swap, and its record."""
    proposal = gateway_setup.without(Proposal(list(swaps), []), [], places)
    apply(proposal)


def plan_of(places: Places) -> UndoPlan:
    return plan_undo(read_record(places.record), unit_folder=places.units)


def put_back(places: Places) -> UndoPlan:
    """Restore the files that are planned, and forget the services, as the command does with more around it."""
    plan = plan_of(places)
    for path, text in plan.files.items():
        path.unlink() if text is None else path.write_text(text)
    for one in plan.services:
        if one.drop_in is not None and one.drop_in.made_folder:
            Path(one.drop_in.path).parent.rmdir()
    record = read_record(places.record)
    write_record(places.record, SwapRecord({n: o for n, o in record.services.items() if o not in plan.services}))
    return plan


@pytest.mark.parametrize("swaps", [(OLLAMA,), (COMFYUI,), (OLLAMA, COMFYUI, CONTAINER)])
def test_all_files_are_byte_for_byte_as_before(places: Places, swaps: tuple[Swap, ...]) -> None:
    before = tree(places)
    swap(places, *swaps)
    assert tree(places) != before
    assert put_back(places).refused == {}
    assert tree(places) == before


@pytest.mark.parametrize("text", ["", "\n\n", "# a comment without an end of line", "[gateway]\nlinger_sec = 1\n\n\n"])
def test_a_configuration_of_the_gateway_is_as_before_whatever_its_end_was(places: Places, text: str) -> None:
    places.gateway.write_text(text)
    swap(places, OLLAMA, COMFYUI)
    assert set(gateway_config.load(places.gateway).listeners) == {"ollama", "comfyui"}
    put_back(places)
    assert places.gateway.read_text() == text


def test_files_that_the_swap_has_created_are_removed_and_replaced_ones_return(places: Places) -> None:
    places.gateway.unlink()
    other = places.units / "comfyui.service.d/gpumand-gateway.conf"
    other.parent.mkdir()
    other.write_text("[Service]\nNice=5\n")
    before = tree(places)
    swap(places, OLLAMA, COMFYUI)
    put_back_folders = plan_of(places)
    assert [one.drop_in.made_folder for one in put_back_folders.services if one.drop_in] == [True, False]
    put_back(places)
    assert tree(places) == before


def test_two_swaps_after_each_other_go_back_to_the_state_before_the_first(places: Places) -> None:
    before = tree(places)
    swap(places, OLLAMA)
    swap(places, COMFYUI)
    assert set(read_record(places.record).services) == {"ollama", "comfyui"}
    put_back(places)
    assert tree(places) == before


def test_a_swap_that_was_interrupted_and_repeated_goes_back_to_the_first_state(places: Places) -> None:
    before = tree(places)
    swap(places, OLLAMA)
    places.gateway.write_text("[gateway]\nlinger_sec = 1\n")  # the last file was not written
    swap(places, replace(OLLAMA, old_port=11435, new_port=11436))
    (service,) = read_record(places.record).services.values()
    assert service.old_port == 11434
    put_back(places)
    assert tree(places) == before


def test_a_service_that_was_moved_again_after_it_was_taken_back_by_hand_has_its_present_ports(places: Places) -> None:
    swap(places, OLLAMA)
    (places.units / "ollama.service.d/gpumand-gateway.conf").unlink()
    places.gateway.write_text("")
    assert places.config is not None
    places.config.write_text(CONFIG.replace("11434", "12000"))
    swap(places, replace(OLLAMA, old_port=12000, new_port=12001))
    (service,) = read_record(places.record).services.values()
    assert service.old_port == 12000
    put_back(places)
    assert places.config.read_text() == CONFIG.replace("11434", "12000")


@pytest.mark.parametrize(
    ("name", "old", "new", "advice"),
    [
        ("gpumand.toml", ":11435", ":12345", "the url of ollama was edited since. Write the former line, url = 'http:"),
        ("gpumand.toml", ":8189", ":8190", 'the url of comfyui was edited since. Write the former line, url = "http:'),
        ("gateway.toml", ':11434"\n', ':11434"\npriority = 5\n', "[gateway.listeners.ollama] was edited since. Remove"),
        ("gateway.toml", '"127.0.0.1:11434"', '"127.0.0.1:1"', "[gateway.listeners.ollama] was edited since. Remove"),
        ("gateway.toml", "[gateway]", "[gateway", "it has an error"),
        ("units/ollama.service.d/gpumand-gateway.conf", "[Service]", "[Service]\nNice=1", "it was edited since. Move"),
    ],
)
def test_what_was_edited_since_is_refused_with_advice(
    places: Places, name: str, old: str, new: str, advice: str
) -> None:
    swap(places, OLLAMA, COMFYUI)
    path = places.gateway.parent / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    plan = plan_of(places)
    refused = "\n".join(plan.refused.values())
    assert advice in refused
    assert str(path) in refused
    assert all(one.consumer not in plan.refused for one in plan.services)
    if "error" not in advice:
        assert len(plan.services) == 1
        assert path not in plan.files or new in str(plan.files[path])


def test_other_lines_of_edited_files_are_kept(places: Places) -> None:
    swap(places, OLLAMA)
    assert places.config is not None
    places.config.write_text(places.config.read_text() + "\n[consumers.more]\nunit = 'more.service'\n")
    places.gateway.write_text("# mine\n" + places.gateway.read_text() + "\n[gateway.listeners.other]\nlisten = []\n")
    put_back(places)
    assert places.config.read_text() == CONFIG + "\n[consumers.more]\nunit = 'more.service'\n"
    expected = "# mine\n[gateway]\nlinger_sec = 1\n\n[gateway.listeners.other]\nlisten = []\n"
    assert places.gateway.read_text() == expected


def test_a_part_that_is_back_already_is_no_reason_to_refuse_the_rest(places: Places) -> None:
    before = tree(places)
    swap(places, OLLAMA, COMFYUI)
    plan = plan_of(places)
    for path, text in list(plan.files.items())[:2]:  # an undo that was killed after two files
        path.unlink() if text is None else path.write_text(text)
    assert put_back(places).refused == {}
    assert tree(places) == before


def test_a_consumer_or_a_file_that_is_gone_needs_nothing(places: Places) -> None:
    swap(places, OLLAMA)
    assert places.config is not None
    places.config.write_text("")
    places.gateway.unlink()
    plan = plan_of(places)
    assert plan.refused == {}
    assert list(plan.files) == [places.units / "ollama.service.d/gpumand-gateway.conf"]


def test_a_service_that_a_person_has_moved_keeps_its_place_and_gets_advice(places: Places) -> None:
    swap(places, CONTAINER)
    plan = plan_of(places)
    assert list(plan.files) == [places.gateway]
    (hint,) = plan.hints
    assert hint.startswith("tei: you have moved it yourself. Let it use port 8080 again, set its url in /etc/gpumand")


def test_socket_units_are_removed_only_as_they_were_generated(places: Places) -> None:
    swap(places, OLLAMA)
    ((name, text),) = socket_units(gateway_config.load(places.gateway)).items()
    socket = places.units / name
    socket.write_text(text)
    assert plan_of(places).sockets == [socket]
    socket.write_text(text + "Backlog=5\n")
    assert f"systemctl disable --now {name}" in plan_of(places).refused["ollama"]


def test_the_record_is_of_root_only_and_goes_with_the_last_service(places: Places) -> None:
    swap(places, OLLAMA)
    assert places.record.stat().st_mode & 0o777 == 0o600
    record = read_record(places.record)
    write_record(places.record, record.without("ollama"))
    assert not places.record.parent.exists()
    assert read_record(places.record) == SwapRecord({})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}', '{"version": 1, "services": [1], "enabled": []}'])
def test_a_damaged_record_is_an_error_and_not_taken_for_an_empty_one(places: Places, text: str) -> None:
    places.record.parent.mkdir()
    places.record.write_text(text)
    with pytest.raises(Failure, match="is damaged"):
        read_record(places.record)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"consumer": "ollama"', '"consumer": "../../x"'),
        ('"unit": "ollama.service"', '"unit": "--all"'),
        ('"unit": "ollama.service"', '"unit": "--all.service"'),
        ('"unit": "ollama.service"', '"unit": "ssh.service"'),
        ('"new_port": 11435', '"new_port": "11435"'),
        ('"new_port": 11435', '"new_port": true'),
        ('"port": 11434', '"port": null'),
        ('"port": 11434', '"port": true'),
        ('"port": 11434', '"port": 65536'),
        ('"port": 11434', '"port": -1'),
        ('"enabled": []', '"enabled": "gpumand-gateway.service"'),
        ('"enabled": []', '"enabled": ["-x"]'),
        ('"enabled": []', '"enabled": ["ssh.service"]'),
        ('"enabled": []', '"enabled": [["gpumand-gateway.service"]]'),
        ('"enabled": []', '"enabled": {"gpumand-gateway.service": 1}'),
        ('"before": null', '"before": 7'),
        ("/ollama.service.d/gpumand-gateway.conf", "/ollama.service.d/../../passwd"),
        ("/ollama.service.d/gpumand-gateway.conf", "/ollama.service.d/other.conf"),
        ("/gateway.toml", "/shadow"),
        ("/gpumand.toml", "/../gpumand.toml"),
    ],
)
def test_a_record_with_what_no_swap_writes_is_damaged(places: Places, old: str, new: str) -> None:
    swap(places, OLLAMA)
    text = places.record.read_text()
    assert old in text
    places.record.write_text(text.replace(old, new))
    with pytest.raises(Failure, match=r"is damaged\. Rename it and repeat"):
        read_record(places.record)


@pytest.mark.parametrize(
    "unit", ["", "my.slice", "session-3.scope", "llama@big.service", r"a\x2db.service", "a" * 247 + ".service"]
)
def test_a_record_with_any_unit_of_a_consumer_can_be_read(places: Places, unit: str) -> None:
    swap(places, replace(CONTAINER, unit=unit))
    assert read_record(places.record).services["tei"].unit == unit


@pytest.mark.parametrize("kind", ["link", "fifo", "writable"])
def test_a_record_that_others_could_have_written_is_refused(places: Places, kind: str) -> None:
    swap(places, OLLAMA)
    if kind == "writable":
        places.record.chmod(0o666)
    else:
        moved = places.record.rename(places.record.with_name("moved"))
        places.record.symlink_to(moved) if kind == "link" else os.mkfifo(places.record, 0o600)
    with pytest.raises(Failure, match="cannot read" if kind == "link" else "only root can write"):
        read_record(places.record)


# -- without a record --------------------------------------------------------------------------------------------------


def test_services_that_were_moved_without_a_record_go_back_too(places: Places) -> None:
    before = tree(places)
    swap(places, OLLAMA)
    places.record.unlink()
    places.record.parent.rmdir()
    record = with_former_moves(SwapRecord({}), places)
    (service,) = record.services.values()
    assert (service.consumer, service.unit, service.old_port, service.new_port) == (
        "ollama",
        "ollama.service",
        11434,
        11435,
    )
    write_record(places.record, record)
    put_back(places)
    after = tree(places)
    assert after.pop("gpumand.toml") == CONFIG.replace("'", '"')  # the quotes of the former line are not known
    assert after == {name: text for name, text in before.items() if name != "gpumand.toml"}


def test_a_recorded_service_is_not_found_a_second_time(places: Places) -> None:
    swap(places, OLLAMA)
    record = read_record(places.record)
    assert with_former_moves(record, places) == record


@pytest.mark.parametrize("text", ["[Service]\nNice=5\n", "", "# To undo, remove this file and set the old url: soon\n"])
def test_drop_ins_of_another_origin_are_not_taken_for_moved_services(places: Places, text: str) -> None:
    path = places.units / "other.service.d/gpumand-gateway.conf"
    path.parent.mkdir()
    path.write_text(text)
    assert with_former_moves(SwapRecord({}), places) == SwapRecord({})


def test_own_lines_in_a_drop_in_without_a_record_are_not_removed(places: Places) -> None:
    swap(places, OLLAMA)
    places.record.unlink()
    path = places.units / "ollama.service.d/gpumand-gateway.conf"
    path.write_text(path.read_text() + "Nice=5\n")
    plan = plan_undo(with_former_moves(SwapRecord({}), places), unit_folder=places.units)
    assert plan.files == {}
    assert "it was edited since. Move your own lines to another drop-in, keep the first line" in plan.refused["ollama"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://127.0.0.1:port", "http://[::1"])
def test_a_former_url_that_no_swap_writes_is_not_taken_for_a_moved_service(places: Places, url: str) -> None:
    swap(places, OLLAMA)
    places.record.unlink()
    path = places.units / "ollama.service.d/gpumand-gateway.conf"
    path.write_text(path.read_text().replace("http://127.0.0.1:11434", url))
    assert with_former_moves(SwapRecord({}), places) == SwapRecord({})


def test_a_present_url_with_an_error_leaves_the_new_port_unknown(places: Places) -> None:
    swap(places, OLLAMA)
    places.record.unlink()
    assert places.config is not None
    places.config.write_text(places.config.read_text().replace(":11435", ":114350"))
    (service,) = with_former_moves(SwapRecord({}), places).services.values()
    assert (service.old_port, service.new_port) == (11434, 0)
    assert service.url is not None


@pytest.mark.parametrize("kind", ["not text", "folder"])
def test_a_drop_in_that_cannot_be_read_is_not_replaced(places: Places, kind: str) -> None:
    path = places.units / "ollama.service.d/gpumand-gateway.conf"
    path.parent.mkdir()
    path.write_bytes(b"\xff") if kind == "not text" else path.mkdir()
    before = places.gateway.read_text() if places.gateway.exists() else None
    with pytest.raises(Failure, match=r"cannot read .*gpumand-gateway\.conf, which the swap of ports replaces"):
        swap(places, OLLAMA)
    assert (places.gateway.read_text() if places.gateway.exists() else None) == before
    assert not places.record.exists()
