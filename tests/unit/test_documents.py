"""Documents are read strictly, written canonically, and described by a schema that agrees with the reader."""

import dataclasses
from typing import Any

import jsonschema
import pytest

from inferhost.schema import document
from inferhost.schema.plan import Cpu, Dropin, Plan, identified, read_plan
from inferhost.schema.problems import InputError, near
from inferhost.schema.result import Verdict

PLAN: dict[str, Any] = {
    "schema": 2,
    "plan_id": "",
    "wish_sha256": "0" * 64,
    "host": {"name": "h", "simulated": False},
    "manage": ["gpu"],
    "driver": {
        "kernel_module": "open",
        "first_version": None,
        "last_branch": None,
        "version_found": None,
        "install": None,
    },
    "gpus": [
        {
            "model": "m",
            "name": "n",
            "select": {"uuid": None, "pci_device_id": "2BB1", "ordinal": 0},
            "persistence_mode": True,
            "power_limit_w": 450,
            "graphics_clock_lock_mhz": None,
            "memory_clock_lock_mhz": None,
            "application_clocks_mhz": None,
            "compute_mode": None,
            "ecc": None,
            "mig": None,
            "guard": {"limit_c": 85, "resume_c": 75, "power_w": "min", "cool_down_s": 300},
        }
    ],
    "cpu": {"governor": None, "energy_performance_preference": None, "idle_latency_us": None},
    "sysctl": {"vm.swappiness": "10"},
    "env": {},
    "files": [],
    "dropins": [],
    "service": [],
    "budget": {},
    "roofline": {},
    "reasons": [],
    "pending": [],
    "models": [],
    "adopt": [],
    "balancer": None,
    "runtime": None,
    "spare_containers": True,
    "metrics_folder": "auto",
}


GPU_BEFORE = {k: v for k, v in PLAN["gpus"][0].items() if k not in ("application_clocks_mhz", "compute_mode")}


def changed(**changes: Any) -> dict[str, Any]:
    return {**PLAN, **changes}


def test_a_document_survives_the_round_trip():
    assert document.plain(read_plan(PLAN)) == PLAN


def test_a_plan_of_the_schema_before_reads_as_one_that_leaves_the_new_settings_alone():
    before = changed(schema=1, cpu={"governor": "performance"}, gpus=[GPU_BEFORE])
    plan = read_plan(before)
    assert plan.cpu == Cpu("performance", None)
    assert (plan.gpus[0].application_clocks_mhz, plan.gpus[0].compute_mode) == (None, None)


def test_a_field_without_a_default_may_not_be_missing():
    with pytest.raises(InputError, match=r"cpu\.governor: is missing"):
        read_plan(changed(cpu={"energy_performance_preference": None}))


def test_the_generated_schema_accepts_what_the_reader_accepts():
    jsonschema.validate(PLAN, document.json_schema(Plan))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (changed(schema=99), "error: plan: schema: found 99, this program reads 1, 2"),
        (changed(host={"name": "h"}), "error: plan: host.simulated: is missing"),
        (changed(gpu=[]), 'error: plan: gpu: is not a known key\nhint: did you mean "gpus"?'),
        (changed(sysctl={"a": 1}), "error: plan: sysctl.a: found 1, wanted text"),
        (changed(manage="gpu"), 'error: plan: manage: found "gpu", wanted a list'),
        (changed(host={"name": "h", "simulated": 1}), "error: plan: host.simulated: found 1, wanted a boolean"),
        ([], "error: plan: schema: found nothing, this program reads 1, 2"),
    ],
)
def test_a_broken_document_is_refused_with_place_finding_and_wish(broken, message):
    with pytest.raises(InputError) as refused:
        read_plan(broken)
    assert message in str(refused.value)


def test_a_truth_value_is_never_a_number():
    gpu = {**PLAN["gpus"][0], "power_limit_w": True}
    with pytest.raises(InputError, match=r"gpus\[0\]\.power_limit_w: found True"):
        read_plan(changed(gpus=[gpu]))


def test_all_problems_are_reported_at_once_and_sorted():
    with pytest.raises(InputError) as refused:
        read_plan(changed(sysctl={"b": 1, "a": 2}, cpu={}))
    assert [p.path for p in refused.value.problems] == ["cpu.governor", "sysctl.a", "sysctl.b"]


def test_the_plan_id_is_the_hash_of_all_the_rest():
    plan = identified(read_plan(PLAN))
    assert identified(plan).plan_id == plan.plan_id
    assert identified(dataclasses.replace(plan, sysctl={})).plan_id != plan.plan_id


def test_a_dropin_keeps_its_order_and_resets_before_it_sets():
    entries = (("Service", "ExecStart", ""), ("Service", "ExecStart", "/bin/true"), ("Unit", "After", "x.service"))
    assert Dropin("a@b.service", "service", entries, "none").content.splitlines()[1:] == [
        "",
        "[Service]",
        "ExecStart=",
        "ExecStart=/bin/true",
        "",
        "[Unit]",
        "After=x.service",
    ]


def test_a_hint_that_the_reader_does_not_know_is_never_passed_over():
    @dataclasses.dataclass(frozen=True)
    class Odd:
        words: "set[str]"

    with pytest.raises(TypeError, match="words: a document cannot hold"):
        document.read(Odd, {"words": 1})


@pytest.mark.parametrize(("verdict", "cause"), [("done", "none"), ("held", "luck")])
def test_a_verdict_knows_the_pinned_words_only(verdict, cause):
    with pytest.raises(ValueError, match="is not among the pinned words"):
        Verdict("gpu.x", 1, 1, verdict, cause, "")


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("--max-num-seq", ["--max-num-seqs", "--max-model-len"], "--max-num-seqs"),
        ("--max_num_seqs", ["--max-num-seqs"], "--max-num-seqs"),
        ("--tensor-paralel-size", ["--tensor-parallel-size", "--data-parallel-size"], "--tensor-parallel-size"),
        ("--tensor-parallel", ["--tensor-parallel-size", "--pipeline-parallel-size"], "--tensor-parallel-size"),
        ("VLLM_LOGING_LEVEL", ["VLLM_LOGGING_LEVEL"], "VLLM_LOGGING_LEVEL"),
        ("gpu", ["cpu", "gpus"], "gpus"),
        ("--turbo", ["--verbose"], ""),
        ("--batch-size", ["--ubatch-size"], ""),
        ("--ctx", ["-ctk"], ""),
        ("VLLM_FAST_MODE", ["VLLM_USE_MODE", "VLLM_MODE", "VLLM_SERVER_DEV_MODE"], ""),
        ("inferhost_quantum", ["inferhost_manage"], ""),
        ("inferhost_service_api_key", ["inferhost_service_adopt"], ""),
    ],
)
def test_a_hint_is_given_only_where_a_name_is_really_near(word, known, hint):
    assert near(word, known) == (f'did you mean "{hint}"?' if hint else "")
