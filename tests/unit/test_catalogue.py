"""The catalogue is strict, complete, and its rows agree with one another."""

import ast
import csv
import dataclasses
import json
import pathlib
import re
import time

import pytest

from inferhost.catalogue import reader as loader
from inferhost.planner import resolve
from inferhost.planner.reasons import is_flag
from inferhost.schema.problems import InputError
from inferhost.schema.wish import options

ROOT = pathlib.Path(__file__).resolve().parents[2]
CATALOGUE = loader.load()
SPEED = json.loads((loader.FOLDER / "speeds.json").read_text())["rows"][0]


def refusal(name, value):
    with pytest.raises(InputError) as refused:
        loader.table(loader.TABLES[name], name, value)
    return str(refused.value)


def test_every_row_has_a_source():
    for name in loader.TABLES:
        assert [key for key, row in getattr(CATALOGUE, name).items() if not row.source.strip()] == [], name


def test_an_unknown_and_a_missing_field_are_errors_with_their_place():
    row = {**SPEED, "low_raito": 0.8}
    del row["low_ratio"]
    assert refusal("speeds", {"rows": [SPEED, row]}) == (
        "error: rows[1].low_raito: is not a known key\n"
        'hint: did you mean "low_ratio"?\n'
        "error: rows[1].low_ratio: is missing"
    )


def test_a_row_without_a_source_is_an_error():
    assert refusal("speeds", {"rows": [{**SPEED, "source": ""}]}) == "error: rows[0].source: is empty"


def test_a_key_used_twice_is_an_error():
    assert refusal("speeds", {"rows": [SPEED, SPEED]}) == 'error: rows[1].key: "llama.cpp-2024" is there twice'


def test_an_efficiency_above_one_is_an_error_because_it_would_promise_more_than_the_ceiling():
    row = json.loads((loader.FOLDER / "decode.json").read_text())["rows"][0]
    found = refusal("decode", {"rows": [{**row, "value": 1.2}]})
    assert found == "error: rows[0].value: found 1.2, wanted more than 0 and at most 1"


def test_an_engine_without_a_rate_for_every_family_of_formats_is_an_error():
    row = {**SPEED, "weights_per_clock": {"16bit": 3.1}}
    assert refusal("speeds", {"rows": [row]}) == (
        "error: rows[0].weights_per_clock: wanted a rate for each of 16bit, 8bit, 4bit, 3bit, ternary, and no other"
    )


def test_the_least_driver_of_every_card_is_known_and_no_later_than_its_first_open_one():
    for key, card in CATALOGUE.gpus.items():
        known = CATALOGUE.capabilities[card.compute_capability]
        assert known.architecture == card.architecture, key
        assert card.first_open_driver is None or known.first_driver_branch <= int(card.first_open_driver[:3]), key


def test_every_card_of_the_catalogue_is_known_by_what_it_computes_and_agrees_with_itself():
    for key, card in CATALOGUE.gpus.items():
        chip = CATALOGUE.chips[key]
        assert (chip.architecture, chip.compute_capability) == (card.architecture, card.compute_capability), key
    for key, chip in CATALOGUE.chips.items():
        known = CATALOGUE.gpus.get(key)
        stands_twice = known is not None and known.memory_bandwidth_gb_s and chip.memory_bandwidth_gb_s
        assert not stands_twice, key
        assert chip.memory_bandwidth_gb_s or (known and known.memory_bandwidth_gb_s), key


def test_a_word_outside_its_list_is_an_error():
    row = json.loads((loader.FOLDER / "env.json").read_text())["rows"][0]
    assert refusal("env", {"rows": [{**row, "status": "maybe"}]}) == (
        "error: rows[0].replacement: is empty, and a refusal has to name what would work\n"
        'error: rows[0].status: found "maybe", wanted one of real, renamed, removed, placebo, harmful'
    )


def test_a_refused_flag_or_variable_names_its_replacement():
    rows = [*CATALOGUE.flags.values(), *CATALOGUE.env.values(), *CATALOGUE.values.values()]
    assert [r.key for r in rows if r.status != "real" and not r.replacement] == []


def test_a_row_about_a_value_names_a_flag_or_variable_that_its_engines_read():
    for row in CATALOGUE.values.values():
        engines = [e for e in CATALOGUE.engines.values() if not row.engines or e.engine in row.engines]
        assert {e.engine for e in engines} >= set(row.engines), row.key
        known = [row.name == "--model" or row.name in CATALOGUE.flags_of(e) for e in engines]
        assert row.name in CATALOGUE.env or (any(known) if not row.engines else all(known)), row.key


def test_what_was_renamed_has_a_new_name():
    rows = [*CATALOGUE.flags.values(), *CATALOGUE.env.values()]
    assert [r.key for r in rows if r.status == "renamed" and (r.replacement or "").startswith("nothing")] == []


def test_a_hint_never_names_a_flag_that_is_itself_refused():
    read = {name for row in CATALOGUE.flags.values() if row.status == "real" for name in row.names}
    for row in [*CATALOGUE.flags.values(), *CATALOGUE.env.values()]:
        for flag in re.findall(r"--[a-z][a-z0-9-]+", row.replacement or ""):
            assert flag in read, (row.key, flag)


def test_every_flag_that_an_engine_is_told_is_read_by_that_engine():
    for engine in CATALOGUE.engines.values():
        known = CATALOGUE.flags_of(engine)
        told = [flag for flag in engine.flags.values() if flag]
        told += [word for switch in engine.switches for word in switch.arguments if is_flag(word)]
        unread = [flag for flag in told if flag not in known or known[flag].status != "real"]
        assert unread == [], engine.key


def test_every_variable_that_an_engine_is_given_is_read_by_that_engine():
    for engine in CATALOGUE.engines.values():
        for default in engine.environment:
            row = CATALOGUE.env[default.name]
            assert row.status == "real"
            assert set(row.read_by) & set(engine.reads_environment_of), (engine.key, default.name)


def test_every_source_in_a_switch_resolves():
    sources = [switch.source for engine in CATALOGUE.engines.values() for switch in engine.switches]
    assert [s for s in sources if not resolve(s, CATALOGUE, options())] == []


def test_each_engine_has_one_pinned_version_and_its_own_preference():
    pinned = [engine for engine in CATALOGUE.engines.values() if engine.pinned]
    assert sorted(engine.engine for engine in pinned) == ["llama.cpp", "sfllm", "sglang", "tabbyapi", "vllm"]
    assert len({engine.preference for engine in pinned}) == len(pinned)


def test_the_choices_of_the_wish_are_the_engines_of_the_catalogue():
    choices = set(options()["inferhost_service_engine"]["choices"]) - {"auto"}
    assert choices == {engine.engine for engine in CATALOGUE.engines.values()}


def test_every_choice_of_a_kv_cache_format_is_offered_by_some_engine():
    offered = {name for engine in CATALOGUE.engines.values() for name in engine.kv_cache}
    assert set(options()["inferhost_service_kv_cache_dtype"]["choices"]) == offered


def test_the_llama_cpp_row_is_the_server_that_the_sandbox_image_holds():
    row = CATALOGUE.engines["llama.cpp"]
    assert (row.version, row.build) == ("0.7.0", 11669)


def test_the_random_model_is_the_one_that_the_bed_writes():
    tree = ast.parse((ROOT / "tests/bed/tiny_gguf.py").read_text())
    names = ("WIDTH", "LAYERS", "KV_HEADS", "FEED_FORWARD", "CONTEXT")
    written = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
            written |= dict(zip((t.id for t in node.targets[0].elts), ast.literal_eval(node.value), strict=True))
    row = CATALOGUE.models["tiny-random"]
    found = (row.hidden_size, row.layers, row.kv_heads, row.intermediate_size, row.context_max_tokens)
    assert row.random
    assert found == tuple(written[name] for name in names)


def test_model_keys_are_lower_case():
    assert [key for key in CATALOGUE.models if key != key.lower()] == []


def test_a_pci_id_names_one_model():
    ids = [device for row in CATALOGUE.gpus.values() for device in row.pci_device_ids]
    assert len(ids) == len(set(ids))


def test_a_card_never_runs_above_its_maximum_nor_sees_more_memory_than_nvml_reports():
    for row in CATALOGUE.gpus.values():
        if row.memory_clock_max_mhz and row.memory_clock_under_cuda_mhz:
            assert row.memory_clock_under_cuda_mhz <= row.memory_clock_max_mhz, row.key
        if row.memory_mib and row.memory_under_cuda_mib:
            assert row.memory_under_cuda_mib < row.memory_mib, row.key


def test_a_derived_field_is_a_field_with_a_value():
    for row in CATALOGUE.gpus.values():
        assert [name for name in row.derived if getattr(row, name) is None] == [], row.key


def test_the_catalogue_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CATALOGUE.gpus["rtx-5090"].fp4 = False


def test_the_catalogue_loads_in_a_fraction_of_a_second():
    started = time.process_time()
    loader.load.__wrapped__(loader.FOLDER)
    # About 0.1 s on the slow machine where this was written; the bound is for accidents, not for tuning.
    assert time.process_time() - started < 1.0


def test_every_formula_that_the_planner_names_is_in_the_catalogue():
    named = set()
    for path in (ROOT / "inferhost/planner").rglob("*.py"):
        text = path.read_text()
        named |= set(re.findall(r'"formula:([a-z_0-9.]+)"', text))
        for line in re.findall(r"Source: formulas? (.*)", text):
            named |= set(re.findall(r"`([a-z_0-9.]+)`", line))
    assert named - set(CATALOGUE.formulas) == set()
    assert len(named) > 15


def test_a_card_that_stands_in_two_tables_is_the_same_in_both():
    twice = [(chip, CATALOGUE.gpus[chip.key]) for chip in CATALOGUE.chips.values() if chip.key in CATALOGUE.gpus]
    assert len(twice) > 20
    for one, other in twice:
        shared = {f.name for f in dataclasses.fields(one)} & {f.name for f in dataclasses.fields(other)}
        for name in shared - {"key", "names", "notes", "source"}:
            values = {getattr(one, name), getattr(other, name)} - {None}
            assert len(values) <= 1, f"{one.key} and {other.key}: {name}"


PRIVATE = re.compile(
    r"\b(engines|kv-cases|planner-anchors|facts-nvml|anchors-ansible|guide-mistakes|serving)\.md"
    r"|\b(gpu-specs|env-vars|engine-flags|decode-cases|model-archs)\.csv|(?<!tests/reality/)kv-cases\.csv"
)


def test_no_source_names_a_place_that_only_its_author_can_read():
    files = sorted(loader.FOLDER.rglob("*.json"))
    assert len(files) > 10
    assert [(f.name, found[0]) for f in files for found in PRIVATE.finditer(f.read_text(encoding="utf-8"))] == []


def test_every_case_of_the_collection_that_a_source_cites_is_in_it():
    cited = {
        (engine, number)
        for row in CATALOGUE.formulas.values()
        if "tests/reality/kv-cases.csv" in row.source
        for engine, number in re.findall(r"\b(vllm|sglang|llamacpp|ikllama)-(\d\d)\b", row.source)
    }
    with (loader.FOLDER.parents[1] / "tests/reality/kv-cases.csv").open(encoding="utf-8") as file:
        known = {row["id"] for row in csv.DictReader(file)}
    assert len(cited) > 5
    assert {f"{engine}-{number}" for engine, number in cited} - known == set()
