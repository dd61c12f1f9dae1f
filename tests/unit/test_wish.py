"""A wish is complete, typed and spelt right, or it is refused with the variable's name."""

import pytest

from inferhost.schema import generate
from inferhost.schema.problems import InputError
from inferhost.schema.wish import options, read_instances, read_wish

HARDWARE = {"inferhost_hardware": {}}


def refusal(**given):
    with pytest.raises(InputError) as refused:
        read_wish({**HARDWARE, **given})
    return str(refused.value)


def test_every_option_has_a_default():
    assert [n for n, o in options().items() if "default" not in o or o.get("required")] == []


def test_every_option_carries_the_prefix_of_its_role():
    shared = {"inferhost_manage", "inferhost_simulated", "inferhost_hardware"}
    assert [n for n, o in options().items() if n not in shared and not n.startswith(o["role"] + "_")] == []


def test_the_generated_files_are_fresh():
    stale = [str(p) for p, text in generate.outputs().items() if p.read_text(encoding="utf-8") != text]
    assert stale == [], "run `make generate`"


def test_the_defaults_files_set_nothing():
    for path in (generate.ROOT / "roles").glob("*/defaults/main.yml"):
        assert all(line.startswith("#") or line == "---" for line in path.read_text().splitlines())


def test_an_unknown_name_is_refused_with_the_nearest_one():
    assert refusal(inferhost_gpu_power_limt=450) == (
        "error: inferhost_gpu_power_limt: is not an option of any inferhost role\n"
        'hint: did you mean "inferhost_gpu_power_limit"?'
    )


def test_text_from_the_command_line_becomes_the_options_type():
    wish = read_wish({**HARDWARE, "inferhost_service_port": "8000", "inferhost_gpu_persistence_mode": "no"})
    assert wish.integer("inferhost_service_port") == 8000
    assert wish.flag("inferhost_gpu_persistence_mode") is False


def test_a_number_may_stand_where_text_is_wanted():
    assert read_wish({**HARDWARE, "inferhost_gpu_power_limit": 450}).text("inferhost_gpu_power_limit") == "450"


def test_an_unquoted_off_is_the_choice_off():
    wish = read_wish({**HARDWARE, "inferhost_cpu_numa_balancing": False})
    assert wish.text("inferhost_cpu_numa_balancing") == "off"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"inferhost_service_context_tokens": "8k"}, "\nhint: for example 8192; "),
        ({"inferhost_service_max_sequences": "many"}, "\nhint: for example 8; "),
        ({"inferhost_service_env": "A=B"}, "\nhint: for example {}; "),
        ({"inferhost_service_port": "x"}, 'error: inferhost_service_port: found "x", wanted int'),
        ({"inferhost_service_env": "A=B"}, 'error: inferhost_service_env: found "A=B", wanted dict'),
        ({"inferhost_gpu_persistence_mode": "maybe"}, "error: inferhost_gpu_persistence_mode: found"),
        (
            {"inferhost_service_engine": "llamacpp"},
            'error: inferhost_service_engine: found "llamacpp", wanted one of auto, sglang, vllm, llama.cpp,',
        ),
        (
            {"inferhost_manage": ["gpus"]},
            'error: inferhost_manage: found "gpus", wanted one of driver, gpu, cpu, runtime, models, service',
        ),
    ],
)
def test_a_wrong_value_is_refused_with_what_would_work(given, message):
    assert message in refusal(**given)


def test_an_instance_inherits_the_flat_values_and_wins_over_them():
    instances = {"main": {"port": 9000}, "second": {}}
    wish = read_wish({**HARDWARE, "inferhost_service_port": 8000, "inferhost_service_instances": instances})
    ports = {name: i.integer("inferhost_service_port") for name, i in read_instances(wish).items()}
    assert ports == {"main": 9000, "second": 8000}


def test_an_unknown_instance_key_is_refused():
    wish = read_wish({**HARDWARE, "inferhost_service_instances": {"main": {"prt": 1}}})
    with pytest.raises(InputError) as refused:
        read_instances(wish)
    assert str(refused.value) == (
        'error: inferhost_service_instances.main.prt: is not an option of an instance\nhint: did you mean "port"?'
    )
