"""The drop-in: words survive systemd, the engine stays on its card's node, and nothing is set twice."""

import pytest

from inferhost.planner.launch import quoting
from tests.unit.planner_wishes import gpu, hardware, planned, refusal, wish

MODEL = "llama-3.1-8b-instruct"


def read_back(text, exec_start):
    """What systemd makes of a quoted line: a small second implementation, written from systemd.syntax(7)."""
    words, word, quoted, escaped, started = [], "", False, False, False
    for character in text:
        if escaped:
            word, escaped = word + character, False
        elif character == "\\":
            escaped = started = True
        elif character == '"':
            quoted, started = not quoted, True
        elif character in " \t" and not quoted:
            words += [word] if started else []
            word, started = "", False
        else:
            word, started = word + character, True
    words += [word] if started else []
    assert not quoted
    plain = [w.replace("%%", "%") for w in words]
    return [w.replace("$$", "$") for w in plain] if exec_start else plain


AWKWARD = ["plain", "two words", "", 'say "hi"', "it's", "50%", "%i", "$HOME", "${HOME}", "a\\b", ";", "a;b", "x=\ty"]


def test_every_word_survives_exec_start():
    assert read_back(quoting.exec_start(["/bin/engine", *AWKWARD]), exec_start=True) == ["/bin/engine", *AWKWARD]


@pytest.mark.parametrize("value", AWKWARD)
def test_every_value_survives_environment(value):
    assert read_back(quoting.environment_assignment("NAME", value), exec_start=False) == [f"NAME={value}"]


def test_percent_and_dollar_are_doubled_where_systemd_expands_them():
    assert quoting.exec_start(["/bin/e", "100%", "$HOME"]) == "/bin/e 100%% $$HOME"
    assert quoting.environment_assignment("A", "100% $HOME") == '"A=100%% $HOME"'


def test_plain_words_stay_readable():
    assert quoting.exec_start(["/bin/e", "--port", "30000"]) == "/bin/e --port 30000"


def test_the_drop_in_resets_exec_start_before_setting_it():
    content = planned(wish("rtx-3090", MODEL)).dropins[0].content
    lines = [line for line in content.splitlines() if line.startswith("ExecStart=")]
    assert lines[0] == "ExecStart="
    assert len(lines) == 2


def test_the_drop_in_repeats_what_the_service_says():
    plan = planned(wish("rtx-3090", MODEL, cpu_limit_memlock="64", cpu_limit_nofile=4096, service_user="llm"))
    entries = {key: value for _, key, value in plan.dropins[0].entries}
    assert (entries["User"], entries["LimitNOFILE"], entries["LimitMEMLOCK"]) == ("llm", "4096", "65536")
    assert (plan.service[0].limit_nofile, plan.service[0].limit_memlock) == (4096, "65536")


def two_sockets(numa_node):
    own = hardware(
        gpu("rtx-3090", numa_node=numa_node), cpu={"sockets": 2, "cores": 20, "numa_nodes": 2, "cpufreq": True}
    )
    return {**wish("rtx-3090", MODEL), "inferhost_hardware": own}


def test_the_engine_is_bound_to_the_node_of_its_card():
    plan = planned(two_sockets(1))
    entries = {key: value for _, key, value in plan.dropins[0].entries}
    assert (entries["NUMAPolicy"], entries["NUMAMask"], entries["CPUAffinity"]) == ("preferred", "1", "numa")
    assert plan.sysctl["kernel.numa_balancing"] == "0"


def test_balancing_stays_on_where_the_cards_node_is_unknown():
    plan = planned(two_sockets(None))
    assert "NUMAMask" not in [key for _, key, _ in plan.dropins[0].entries]
    assert "kernel.numa_balancing" not in plan.sysctl


def test_balancing_is_left_alone_on_one_node_unless_the_wish_says_so():
    assert "kernel.numa_balancing" not in planned(wish("rtx-3090", MODEL)).sysctl
    assert planned(wish("rtx-3090", MODEL, cpu_numa_balancing="off")).sysctl["kernel.numa_balancing"] == "0"


def test_the_governor_is_not_applicable_where_the_hypervisor_owns_the_frequency():
    own = hardware(
        gpu("rtx-3090"),
        cpu={"sockets": 1, "cores": 8, "numa_nodes": 1, "cpufreq": False},
        virtualization="vmware",
    )
    plan = planned({**wish("rtx-3090", MODEL), "inferhost_hardware": own})
    assert plan.cpu.governor is None
    because = next(r.because for r in plan.reasons if r.setting == "cpu.governor")
    assert because == "not applicable: vmware owns the processor's frequency"


def test_a_kernel_parameter_of_the_wish_wins_over_the_planned_one():
    plan = planned(wish("rtx-3090", MODEL, cpu_swappiness=20, cpu_sysctl={"vm.swappiness": 1}))
    assert plan.sysctl == {"vm.swappiness": "1"}
    assert [r.source for r in plan.reasons if r.setting == "sysctl.vm.swappiness"] == ["wish:inferhost_cpu_sysctl"]
    file = next(f for f in plan.files if f.path == "/etc/sysctl.d/90-inferhost.conf")
    assert file.content.splitlines()[1:] == ["vm.swappiness = 1"]


def test_several_cards_are_listed_and_an_engine_without_a_word_on_them_gets_the_first():
    own = hardware(gpu("rtx-3090", uuid="GPU-a"), gpu("rtx-3090", uuid="GPU-b"))
    plan = planned({**wish("rtx-3090", MODEL), "inferhost_hardware": own})
    assert [g.select.ordinal for g in plan.gpus] == [0, 1]
    assert plan.env["main"]["CUDA_VISIBLE_DEVICES"] == "GPU-a"


def entries_of(key, **own):
    """The values of one key in the drop-in."""
    return [value for _, name, value in planned(wish("rtx-3090", MODEL, **own)).dropins[0].entries if name == key]


def test_an_engine_on_loopback_exchanges_packets_with_its_own_host_alone():
    assert entries_of("IPAddressDeny") == ["any"]
    assert entries_of("IPAddressAllow") == ["localhost"]


def test_an_engine_on_all_addresses_is_walled_where_the_wish_says_who_may():
    assert entries_of("IPAddressDeny", service_host="0.0.0.0") == []
    allowed = entries_of("IPAddressAllow", service_host="0.0.0.0", service_allow_from=["10.0.0.0/24", "fd00::1"])
    assert allowed == ["localhost 10.0.0.0/24 fd00::1"]


def test_a_host_that_asks_its_own_engine_at_its_own_address_is_let_through_its_own_wall():
    allowed = entries_of("IPAddressAllow", service_host="192.168.1.5", service_allow_from=["10.0.0.0/24"])
    assert allowed == ["localhost 192.168.1.5 10.0.0.0/24"]
    said = refusal(wish("rtx-3090", MODEL, service_host="gpu.lan", service_allow_from=["10.0.0.0/24"]))
    assert 'inferhost_service_host: found "gpu.lan" beside allow_from, whose filter takes addresses alone' in said


def test_engines_of_several_cards_are_not_walled_for_their_cards_talk_over_the_host_s_own_address():
    values = wish("rtx-3090", MODEL, service_gpus=["all"], service_engine="vllm")
    values["inferhost_hardware"] = hardware(gpu("rtx-3090"), gpu("rtx-3090"))
    assert [name for _, name, _ in planned(values).dropins[0].entries if name.startswith("IPAddress")] == []


def test_who_may_reach_an_engine_is_an_address_or_a_network():
    said = refusal(wish("rtx-3090", MODEL, service_allow_from=["10.0.0.0/24", "10.0.0.1/24"]))
    assert 'inferhost_service_allow_from[1]: found "10.0.0.1/24", wanted an address or a network' in said


@pytest.mark.parametrize(("engine", "waits"), [("llama.cpp", True), ("vllm", False), ("sglang", False)])
def test_an_engine_that_cuts_its_streams_is_waited_for_before_the_signal(engine, waits):
    model = "tiny-random" if engine == "llama.cpp" else MODEL
    plan = planned(wish("rtx-3090", model, service_engine=engine))
    found = {name: value for _, name, value in plan.dropins[0].entries}
    assert ("ExecStop" in found) is waits
    drain = plan.service[0].drain
    assert (drain is not None) is waits
    if drain is not None:
        assert found["ExecStop"] == "-+/usr/local/bin/inferhost drain --instance main"
        assert int(found["TimeoutStopSec"]) > drain.limit_s


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("vllm", ["--scheduling-policy", "priority"]),
        ("sglang", ["--enable-priority-scheduling", "--schedule-low-priority-values-first"]),
    ],
)
def test_an_engine_orders_its_queue_by_priority_where_the_wish_says_so(engine, words):
    asked = planned(wish("rtx-3090", MODEL, service_engine=engine, service_priorities=True)).service[0].argv
    plain = planned(wish("rtx-3090", MODEL, service_engine=engine)).service[0].argv
    assert [word for word in asked if word not in plain] == words


def test_priorities_are_refused_where_the_engine_has_no_order():
    said = refusal(wish("rtx-3090", "tiny-random", service_engine="llama.cpp", service_priorities=True))
    assert "inferhost_service_priorities: llama.cpp 0.7.0 has one queue without an order" in said


def test_the_plan_names_the_files_with_which_an_engine_could_be_told_something_else():
    plan = planned(wish("rtx-3090", "qwen3-1.7b", service_engine="tabbyapi"))
    beside, own = "/srv/models/qwen3-1.7b/tabby_config.yml", "/var/cache/inferhost/main/config.yml"
    assert plan.service[0].overruled_by == (beside, own)
