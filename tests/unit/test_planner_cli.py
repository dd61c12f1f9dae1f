"""`inferhost plan` and `explain` through the real playbook, on inventories that nobody could contact."""

import json
import pathlib
import re

import pytest
import yaml

from inferhost import cli, explain, table
from inferhost.schema import document
from inferhost.schema.wish import options
from tests.unit.planner_wishes import gpu, hardware, planned, wish

# Nothing listens there: a command that contacted the host would say "unreachable".
NOWHERE = {"ansible_host": "127.0.0.1", "ansible_port": 1}
CARD, MODEL = "rtx-pro-6000-bw-ws", "mistral-large-instruct-2411-awq"


@pytest.fixture
def inventory(tmp_path):
    """Writes an inventory with one host `box` and gives its path."""

    def written(values) -> pathlib.Path:
        path = tmp_path / "hosts.yml"
        path.write_text(yaml.safe_dump({"all": {"hosts": {"box": {**NOWHERE, **values}}}}))
        return path

    return written


def ran(capsys, *arguments):
    code = cli.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_json_is_the_planners_own_document(inventory, capsys):
    values = wish(CARD, MODEL)
    code, out, err = ran(capsys, "plan", "--inventory", inventory(values), "--host", "box", "--format", "json")
    assert (code, err) == (0, "")
    assert json.loads(out) == document.plain(planned(values, "box"))


def test_the_table_is_the_default_and_says_what_the_json_says(inventory, capsys):
    code, out, err = ran(capsys, "plan", "--inventory", inventory(wish(CARD, MODEL)), "--host", "box")
    assert (code, err) == (0, "")
    assert out.startswith("plan ")
    assert "ceiling 28.0 tok/s, 26.7 at the running memory clock" in out


def test_a_wish_that_cannot_work_exits_2_with_error_and_hint_lines_only(inventory, capsys):
    values = wish(CARD, MODEL, gpu_power_limit=900, service_modell="x")
    code, out, err = ran(capsys, "plan", "--inventory", inventory(values), "--host", "box")
    assert (code, out) == (2, "")
    assert err == (
        "error: box: inferhost_service_modell: is not an option of any inferhost role\n"
        'hint: did you mean "inferhost_service_model"?\n'
    )


def test_an_unknown_host_exits_2(inventory, capsys):
    code, out, err = ran(capsys, "plan", "--inventory", inventory(wish(CARD, MODEL)), "--host", "bocks")
    assert (code, out) == (2, "")
    assert err == 'error: --host: found "bocks", which the inventory does not have\nhint: it has box\n'


def test_an_inventory_that_does_not_exist_exits_2(tmp_path, capsys):
    code, out, err = ran(capsys, "plan", "--inventory", tmp_path / "none", "--host", "box")
    assert (code, out) == (2, "")
    assert err.startswith(f'error: --inventory: found "{tmp_path / "none"}", which does not exist\n')
    assert "hint: for example " in err


def test_explain_gives_the_reason_of_a_setting(inventory, capsys):
    path = inventory(wish(CARD, MODEL))
    code, out, _ = ran(capsys, "explain", "gpus[0].memory_clock_lock_mhz", "--inventory", path, "--host", "box")
    assert code == 0
    lines = out.splitlines()
    assert "\n".join(lines[:5]) + "\n" == (
        "gpus[0].memory_clock_lock_mhz = -\n"
        "  because: left unlocked: any finite maximum can cost up to 32 % on this architecture; 13365 of 14001 MHz "
        "is this card's normal clock under CUDA\n"
        "  gain: at most +4.8 % decode\n"
        "  takes: none\n"
        f"  source: catalogue:gpus/{CARD}#memory_clock_lock\n"
    )
    assert any(line.startswith("  possible: inferhost_gpu_memory_clock_lock: ") for line in lines[5:])
    assert any(line.startswith("  possible: clocks and power limit: ") for line in lines[5:])
    assert lines[-1] == "  changes with: inferhost_hardware.gpus: the model of the card"


def test_explain_prices_what_else_a_flag_could_be():
    plan = document.plain(planned(wish(CARD, MODEL, service_engine="sglang")))
    text = explain.explained(plan, "--max-running-requests")
    assert "  possible: batching, 8 requests at once: " in text
    assert "  changes with: inferhost_service_max_sequences (default 8)\n" in text
    assert "a fp8 KV cache: 2.00 times the tokens" in explain.explained(plan, "--context-length")
    ampere = document.plain(planned(wish("rtx-3090", "qwen3-4b", service_engine="vllm")))
    assert "fp8" not in explain.explained(ampere, "--max-model-len")


def test_every_setting_of_a_plan_is_explained_and_names_only_options_that_exist():
    plan = document.plain(planned(wish(CARD, MODEL, cpu_sysctl={"net.core.somaxconn": 1})))
    for reason in plan["reasons"]:
        list(explain.possible(plan, reason))
        for line in explain.changers(plan, reason):
            name = re.split(r"[ .]", line)[0]
            assert name in options(), line


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("weights", "weights (memory.main.weights_bytes) = "),
        ("KV cache", "KV cache (memory.main.kv_cache_bytes) = "),
        ("margin", "  source: formula:memory.margin ("),
        ("memory", "CUDA context and libraries (memory.main.non_torch_bytes) = "),
        ("ceiling", "GB/s / 64.09 GB = 28.0 tok/s at the highest memory clock"),
        ("expected_tok_s", "fitted in catalogue:speeds/vllm#overhead_us_per_layer"),
        ("speculative decoding", "  source: formula:roofline.speculation ("),
        ("--max-model-len", "service.main.argv.--max-model-len = 2048"),
        ("-tp", "service.main.argv.--tensor-parallel-size = 2"),
        ("KV", "KV cache per token (memory.main.kv_bytes_per_token) = "),
        ("activations", "activations and compute buffers (memory.main.activation_bytes) = "),
        ("reading", "reading (speed.main.parts_ms.reading) = "),
        ("levers", "speculative decoding (lever.main.speculative decoding) = "),
        ("TimeoutStopSec", "TimeoutStopSec = "),
        ("concurrent_requests", " tokens in the KV cache / 2048 tokens of context = "),
        ("CUDA_DEVICE_ORDER", "env.main.CUDA_DEVICE_ORDER = PCI_BUS_ID"),
    ],
)
def test_explain_takes_every_row_of_the_table_a_flag_and_a_variable(asked, said):
    values = wish(CARD, MODEL, service_engine="vllm", service_gpus=["all"])
    plan = document.plain(planned({**values, "inferhost_hardware": hardware(gpu(CARD), gpu(CARD))}))
    assert said in explain.explained(plan, asked)


def test_every_row_of_the_table_can_be_explained():
    values = wish(CARD, MODEL, service_engine="sglang", service_target_ttft_ms=2000)
    plan = document.plain(planned(values))
    shown = table.render_plan(plan)
    labels = [label for key, label in table.BUDGET_ROWS if plan["budget"]["main"][key]]
    labels += [lever["lever"] for lever in plan["roofline"]["main"]["levers"]]
    labels += [part.replace("_", " ") for part, ms in plan["roofline"]["main"]["parts_ms"].items() if ms]
    labels += ["ceiling", "expected", "prefill", "energy", "service.main.target_ttft_ms"]
    for label in labels:
        assert label.split()[0].rpartition(".")[2] in shown
        assert explain.explained(plan, label)


def test_a_cap_below_what_the_cache_holds_is_said_beside_the_memory():
    capped = document.plain(planned(wish("a100-pcie-80gb", "qwen3-4b", service_engine="vllm")))
    held = capped["budget"]["main"]["concurrent_requests"]
    said = f"the engine takes 8 requests at a time (max_sequences), so {held - 8} more of that length would fit"
    assert held > 8
    assert said in " ".join(table.render_plan(capped).split())
    free = wish("a100-pcie-80gb", "qwen3-4b", service_engine="vllm", service_max_sequences=held)
    assert "at a time (max_sequences)" not in table.render_plan(document.plain(planned(free)))


def test_explain_says_of_a_flag_that_the_plan_does_not_set_who_does():
    plan = document.plain(planned(wish(CARD, MODEL, service_engine="sglang")))
    with pytest.raises(cli.InputError) as refused:
        explain.explained(plan, "--schedule-policy")
    assert str(refused.value) == (
        "error: --schedule-policy: is not set by this plan: sglang 0.5.23 uses its own default\n"
        "hint: inferhost_service_extra_args sets it"
    )


def test_explain_takes_a_flag_of_the_engine_for_its_setting(inventory, capsys):
    path = inventory(wish(CARD, MODEL, service_engine="vllm"))
    code, out, _ = ran(capsys, "explain", "--inventory", path, "--host", "box", "--max-model-len")
    assert (code, out.splitlines()[0]) == (0, "service.main.argv.--max-model-len = 2048")
    with pytest.raises(SystemExit) as refused:
        ran(capsys, "plan", "--inventory", path, "--host", "box", "--max-model-len")
    assert refused.value.code == 2


def test_explain_without_a_setting_explains_all_and_an_unknown_one_is_refused_with_the_nearest():
    plan = document.plain(planned({"inferhost_hardware": hardware(gpu(CARD)), "inferhost_manage": ["cpu"]}))
    assert explain.explained(plan, "").count("because:") == len(plan["reasons"])
    with pytest.raises(cli.InputError) as refused:
        explain.explained(plan, "sysctl.vm.swapiness")
    assert str(refused.value) == (
        'error: sysctl.vm.swapiness: is no setting of this plan\nhint: did you mean "sysctl.vm.swappiness"?'
    )


def test_a_cell_breaks_a_path_after_one_of_its_parts():
    path = "/opt/inferhost/llama.cpp-0.7.0/bin/llama-server"
    lines = table.cell(path, 24)
    assert "".join(lines) == path
    assert all(len(line) <= 24 and line[-1] in "/-.r" for line in lines)
    assert table.cell(f"at {path}", 60) == [f"at {path}"]
    assert table.cell("x" * 30, 24) == ["x" * 24, "x" * 6]
    assert table.cell("", 24) == [""]
