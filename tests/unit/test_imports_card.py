"""What `nvidia-smi` in a script or a unit becomes: variables of the GPU role, and no line of it is lost."""

import pytest

from inferhost.imports.card import card_settings
from inferhost.imports.command import imported
from inferhost.imports.shell import read_script
from inferhost.imports.unit import read_unit
from inferhost.schema.wish import read_cards, read_wish


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("nvidia-smi -pl 450", {"power_limit": 450}),
        ("sudo -n /usr/bin/nvidia-smi --power-limit=450.00", {"power_limit": 450}),
        ("nvidia-smi -pm ENABLED -lgc 1800,2400", {"persistence_mode": True, "graphics_clock_lock": "1800-2400"}),
        ("nvidia-smi --lock-memory-clocks 14001", {"memory_clock_lock": "14001"}),
        ("nvidia-smi -ac 3003,1531", {"application_clocks": "3003,1531"}),
        ("nvidia-smi -c 3", {"compute_mode": "exclusive_process"}),
        ("nvidia-smi --ecc-config=0", {"ecc": "off"}),
        ("nvidia-smi -mig 0", {"mig": "whole"}),
        ("nvidia-smi -rgc", {"graphics_clock_lock": "unlocked"}),
        ("nvidia-smi dmon -c 3", {}),
        ("nvidia-smi --query-gpu=power.draw --format=csv", {}),
        ("echo run nvidia smi -pl 450", {}),
    ],
)
def test_a_call_becomes_options_that_the_wish_takes(line, found):
    assert read_script(f"{line}\n", "rc.local").gpu == found
    read_wish({"inferhost_hardware": {}, **{f"inferhost_gpu_{key}": value for key, value in found.items()}})


UUID = "GPU-5a1b6000-2bb1-4000-8000-000000000001"


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (f"nvidia-smi -i {UUID} -pl 300", {"cards": {UUID: {"power_limit": 300}}}),
        ("nvidia-smi --id=00000000:41:00.0 -lgc 2100,2400",
         {"cards": {"0000:41:00.0": {"graphics_clock_lock": "2100-2400"}}}),
        (f"nvidia-smi -pm 1 -i 0000:0A:00.0,{UUID} -c 3", {"persistence_mode": True, "cards": {
            "0000:0a:00.0": {"compute_mode": "exclusive_process"}, UUID: {"compute_mode": "exclusive_process"}}}),
        (f"nvidia-smi -pl 450\nnvidia-smi -i {UUID} -pl 300\nnvidia-smi -i {UUID} -rgc",
         {"power_limit": 450, "cards": {UUID: {"power_limit": 300, "graphics_clock_lock": "unlocked"}}}),
        (f"nvidia-smi -i {UUID} -pl 300\nnvidia-smi -pl 450", {"power_limit": 450}),
    ],
)  # fmt: skip
def test_what_is_for_one_card_becomes_a_mapping_of_that_card(lines, found):
    source = read_script(f"{lines}\n", "rc.local")
    assert source.gpu == found
    assert "harmful" not in {m.verdict for m in source.mistakes}
    wish = read_wish({"inferhost_hardware": {}, **{f"inferhost_gpu_{key}": value for key, value in found.items()}})
    assert set(read_cards(wish)) == set(found.get("cards", {}))


@pytest.mark.parametrize("card", ["0", "3", "0320523034567", "$CARD"])
def test_a_number_is_no_name_of_a_card_and_the_line_says_what_to_write(card):
    found, told = card_settings(["nvidia-smi", "-i", card, "-pl", "300"], "rc.local:1")
    assert not found
    assert [(m.verdict, m.found) for m in told] == [("harmful", f"nvidia-smi -i {card} -pl 300")]
    assert told[0].instead.startswith(
        "inferhost_gpu_cards: {UUID: {power_limit: 300}}, with the UUID that nvidia-smi -L"
    )
    assert told[0].instead.endswith("where the host has one card: inferhost_gpu_power_limit: 300")


def test_one_card_by_number_among_others_keeps_none_of_them_back():
    found, told = card_settings(["nvidia-smi", "-pl", "300", "-i", f"0,{UUID}"], "rc.local:1")
    assert found == {"cards": {UUID: {"power_limit": 300}}}
    assert [m.verdict for m in told] == ["harmful", "kept"]


@pytest.mark.parametrize(
    "line", ["nvidia-smi -pl $WATTS", "nvidia-smi -mig 1", "nvidia-smi -e 2", "nvidia-smi -ac 3003"]
)
def test_what_a_wish_cannot_hold_is_said_and_not_kept(line):
    found, told = card_settings(line.split(), "rc.local:1")
    assert not found
    assert [m.verdict for m in told] == ["harmful"]


def test_a_script_without_an_engine_is_a_wish_for_the_cards():
    text = imported(read_script("nvidia-smi -pm 1\nnvidia-smi -pl 450\n", "rc.local"), "rc.local")
    assert text.endswith("---\ninferhost_gpu_persistence_mode: true\ninferhost_gpu_power_limit: 450\n")


def test_what_a_unit_sets_before_its_engine_is_kept_beside_it():
    text = "[Service]\nExecStartPre=-/usr/bin/nvidia-smi -pl 450\nExecStart=/opt/v/bin/vllm serve /m/x\n"
    source = read_unit([text], "vllm.service", {}.get)
    assert source.gpu == {"power_limit": 450}
    assert "inferhost_gpu_power_limit: 450" in imported(source, "vllm.service")


def test_a_call_behind_an_engine_in_the_foreground_never_runs():
    source = read_script("vllm serve /m/x\nnvidia-smi -pl 450\n", "start.sh")
    assert source.gpu == {}
    assert [m.verdict for m in source.mistakes] == ["placebo"]


def test_a_pool_that_requests_share_says_what_each_gets():
    text = imported(read_script("llama-server -m /m/x.gguf -c 32768 -np 4\n", "start.sh"), "start.sh")
    assert "4 requests at once share it: 8192 tokens each" in text
    assert "inferhost_service_context_tokens: 8192" in text
