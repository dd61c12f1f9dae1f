"""Reading launches: units, containers and scripts as people write them; nothing is run, no secret is shown."""

import random

import pytest

from inferhost import cli
from inferhost.imports import command
from inferhost.imports.containers import read_compose, read_docker_run
from inferhost.imports.shell import read_script
from inferhost.imports.unit import read_unit
from inferhost.imports.wish import wished
from tests.unit.planner_wishes import CATALOGUE

SGLANG = "ExecStart=/opt/venv/bin/python -m sglang.launch_server --model-path /m/x"


def one(source):
    (launch,) = source.launches
    return launch


def wish(launch):
    return wished(launch, CATALOGUE)[1]


def unit(*texts, files=None):
    return read_unit(texts, "sglang.service", (files or {}).get)


def test_a_unit_gives_program_user_arguments_and_variables():
    text = f"[Service]\nUser=ivan\nEnvironment=NCCL_DEBUG=INFO 'OMP_NUM_THREADS=2'\n{SGLANG} \\\n  --port 31000\n"
    assert wish(one(unit(text))) == {
        "engine": "sglang",
        "engine_path": "/opt/venv/bin/sglang",
        "model": "x",
        "model_path": "/m/x",
        "port": 31000,
        "user": "ivan",
        "env": {"NCCL_DEBUG": "INFO", "OMP_NUM_THREADS": "2"},
    }


def test_a_drop_in_replaces_the_command_that_it_clears():
    found = unit(f"[Service]\n{SGLANG}\n", "[Service]\nExecStart=\nExecStart=/usr/bin/llama-server -m /m/y.gguf\n")
    assert one(found).engine == "llama.cpp"


def test_a_key_of_another_section_is_not_the_services():
    assert unit(f"[Unit]\n{SGLANG}\n").launches == ()


def test_a_variable_file_wins_over_the_unit_and_a_missing_one_is_told():
    text = f"[Service]\nEnvironment=NCCL_DEBUG=INFO\nEnvironmentFile=/etc/engine.env\n{SGLANG}\n"
    found = unit(text, files={"/etc/engine.env": "# who\nNCCL_DEBUG='WARN'\n"})
    assert one(found).env == {"NCCL_DEBUG": "WARN"}
    missing = unit(text), unit(text.replace("File=/", "File=-/"))
    told = [(m.verdict, m.found) for source in (found, *missing) for m in source.mistakes]
    assert told == [
        ("kept", "EnvironmentFile=/etc/engine.env"),
        ("harmful", "EnvironmentFile=/etc/engine.env"),
        ("placebo", "EnvironmentFile=-/etc/engine.env"),
    ]


def test_the_script_that_a_unit_starts_is_read_with_the_units_variables():
    script = '#!/bin/bash\nexec llama-server -m "$MODEL" --port 8081\n'
    text = "[Service]\nEnvironment=MODEL=/m/y.gguf\nExecStart=/home/ivan/start.sh\n"
    assert one(unit(text, files={"/home/ivan/start.sh": script})).words == ("-m", "/m/y.gguf", "--port", "8081")


@pytest.mark.parametrize(
    "line", ["/bin/bash -c 'exec vllm serve /m/x --port 1'", "/bin/bash -lc 'vllm serve /m/x --port 1'"]
)
def test_a_shell_line_in_a_unit_is_read_as_one(line):
    assert one(unit(f"[Service]\nExecStart={line}\n")).words == ("--model", "/m/x", "--port", "1")


def test_root_is_no_user_of_an_engine():
    findings, found = wished(one(unit(f"[Service]\nUser=root\n{SGLANG}\n")), CATALOGUE)
    assert "user" not in found
    assert [f.verdict for f in findings if f.name == "User"] == ["harmful"]


@pytest.mark.parametrize(
    "form", ["{NCCL_DEBUG: WARN, OMP_NUM_THREADS: 2}", "[NCCL_DEBUG=WARN, OMP_NUM_THREADS=2]"], ids=["map", "list"]
)
def test_both_forms_of_composes_environment_mean_the_same(form):
    text = f"services: {{a: {{image: vllm/vllm-openai, command: --model /m/x, environment: {form}}}}}"
    assert one(read_compose(text, "c.yml", lambda p: None)).env == {"NCCL_DEBUG": "WARN", "OMP_NUM_THREADS": "2"}


def test_a_container_is_seen_from_the_host_by_its_port_and_its_paths():
    text = """
services:
  chat:
    image: ghcr.io/ggml-org/llama.cpp:server-cuda
    command: ["-m", "/models/y.gguf", "--port", "8080", "--host", "0.0.0.0"]
    ports: ["127.0.0.1:9000:8080"]
    volumes: ["/data/gguf:/models:ro"]
    env_file: .env
"""
    found = wish(one(read_compose(text, "c.yml", {".env": "NCCL_DEBUG=WARN\n"}.get)))
    assert (found["model_path"], found["port"], "host" in found) == ("/data/gguf/y.gguf", 9000, False)


@pytest.mark.parametrize(
    ("published", "told"), [("8000:8000", True), ("127.0.0.1:8000:8000", False), ("[::1]:8000:8000", False)]
)
def test_a_port_that_a_container_publishes_to_everybody_is_told(published, told):
    text = f"services: {{a: {{image: vllm/x, command: --model /m/a, ports: ['{published}']}}}}"
    findings, found = wished(one(read_compose(text, "c.yml", lambda p: None)), CATALOGUE)
    assert (found["port"], "host" in found) == (8000, False)
    assert any(f.name == "ports" and "inferhost_service_host: 0.0.0.0" in f.instead for f in findings) == told


def test_quotation_marks_in_composes_list_form_are_not_meant_as_part_of_the_value():
    text = "services: {a: {image: vllm/x, command: --model /m/a, environment: ['NCCL_DEBUG=\"WARN\"']}}"
    found = read_compose(text, "c.yml", lambda p: None)
    assert (one(found).env, [m.verdict for m in found.mistakes]) == ({"NCCL_DEBUG": "WARN"}, ["harmful"])


def test_two_compose_services_become_two_instances():
    text = "services: {a: {image: vllm/x, command: --model /m/a}, b: {image: sglang, command: --model-path /m/b}}"
    found = command.imported(read_compose(text, "c.yml", lambda p: None), "c.yml")
    assert "inferhost_service_instances:\n  a:\n    engine: vllm\n" in found


def test_docker_run_is_a_launch():
    words = (
        "--gpus all --rm -p 9000:8000 -v /data:/models -e NCCL_DEBUG=WARN vllm/vllm-openai:v0.33.0 --model /models/x"
    )
    found = wish(read_docker_run(words.split(), "here"))
    assert found == {
        "engine": "vllm",
        "model": "x",
        "model_path": "/data/x",
        "port": 9000,
        "env": {"NCCL_DEBUG": "WARN"},
    }


SECRETS = ["--api-key sk-12345", "--api-key=sk-12345"]


@pytest.mark.parametrize("words", SECRETS)
def test_a_secret_is_never_shown_and_never_wished(words):
    script = f"export HF_TOKEN=hf_12345\nexport MY_PASSWORD=pw12345\nvllm serve /m/x {words}\n"
    shown = command.imported(read_script(script, "s.sh"), "s.sh")
    assert "12345" not in shown
    assert shown.count("(hidden)") == 3


def test_arrays_and_variables_of_a_script_are_put_in():
    script = (
        'DIR=/m\nARGS=(--model "$DIR/y.gguf" --port 8081)\nARGS+=(-c 4096)\nllama-server "${ARGS[@]}" "$UNKNOWN"\n'
    )
    assert one(read_script(script, "s")).words == ("--model", "/m/y.gguf", "--port", "8081", "-c", "4096", "$UNKNOWN")


def test_a_variable_that_is_not_exported_does_not_reach_the_engine():
    assert one(read_script("NCCL_DEBUG=INFO\nA=1 vllm serve /m/x", "s")).env == {"A": "1"}


@pytest.mark.parametrize(
    "text",
    [
        "pkill -f llama-server",
        "echo vllm serve /m/x",
        "pip install vllm serve",
        "journalctl -u sglang -f",
        "which llama-server",
    ],
)
def test_a_mention_is_no_launch(text):
    assert read_script(text, "s").launches == ()


@pytest.mark.parametrize(
    "text",
    [
        "sudo -u ivan numactl -N 0 llama-server -m /m",
        "nohup llama-server -m /m > log 2>&1 &",
        "cd /x && llama-server -m /m | tee l",
    ],
)
def test_wrappers_and_redirections_are_passed_over(text):
    assert one(read_script(text, "s")).words == ("-m", "/m")


def test_the_slots_of_llama_server_share_its_context_as_the_server_divides_it():
    alone = wish(one(read_script("llama-server -m /m/y.gguf -c 8192", "s")))
    split = wish(one(read_script("llama-server -m /m/y.gguf -c 8192 -np 2", "s")))
    shared = wish(one(read_script("llama-server -m /m/y.gguf -c 8192 -np 2 --kv-unified", "s")))
    assert "extra_args" not in shared  # the budget does not count a shared pool
    sizes = [(w["context_tokens"], w["max_sequences"]) for w in (alone, split, shared)]
    assert sizes == [(8192, 4), (4096, 2), (8192, 2)]


def test_a_variable_that_says_the_same_as_a_flag_becomes_its_option():
    script = "export LLAMA_ARG_CTX_SIZE=4096\nexport LLAMA_ARG_N_PARALLEL=1\nllama-server -m /m/y.gguf"
    found = wish(one(read_script(script, "s")))
    assert (found["context_tokens"], found["max_sequences"], "env" in found) == (4096, 1, False)


def test_a_script_is_read_and_never_run(tmp_path):
    mark = tmp_path / "mark"
    script = tmp_path / "s.sh"
    script.write_text(f"touch {mark}\nX=$(touch {mark})\nY=`touch {mark}`\nllama-server -m /m/y.gguf\n")
    assert one(command.source_of("script", str(script))).engine == "llama.cpp"
    assert not mark.exists()


def test_the_command_prints_yaml_whose_comments_are_the_findings(tmp_path, capsys):
    script = tmp_path / "s.sh"
    script.write_text("vllm serve /m/x --swap-space 4\n")
    assert cli.main(["import", "--script", str(script)]) == 0
    shown = capsys.readouterr().out
    assert "#   --swap-space 4" in shown
    assert "inferhost_service_extra_args" not in shown  # no other flag means the same
    assert "a preempted request is computed again" in " ".join(shown.replace("#", " ").split())


@pytest.mark.parametrize(
    ("words", "layers"),
    [("-ngl 20", "20"), ("-ngl 99", None), ("", None), ("-ngl 99 --cpu-moe", "auto"), ("--n-cpu-moe 4", "auto")],
)
def test_layers_that_a_launch_keeps_in_host_memory_are_in_its_wish(words, layers):
    launch = one(read_script(f"llama-server -m /m/llama-2-7b-q4_k_m.gguf {words}\n", "s"))
    assert wished(launch, CATALOGUE)[1].get("gpu_layers") == layers


def test_a_file_that_is_no_unit_is_told_as_such(tmp_path, capsys):
    file = tmp_path / "README.md"
    file.write_text("# read me\n")
    assert cli.main(["import", "--unit", str(file)]) == 2
    assert "is no unit of a service: it has no section [Service]\nhint: " in capsys.readouterr().err


def test_a_missing_file_and_an_unknown_unit_are_refused(capsys):
    assert cli.main(["import", "--script", "/nowhere"]) == 2
    assert cli.main(["import", "--unit", "no-such-unit"]) == 2
    errors = capsys.readouterr().err
    assert "error: /nowhere: cannot be read" in errors
    assert 'error: --unit: found no unit "no-such-unit.service"' in errors


PIECES = [
    "llama-server", "vllm serve", "python -m sglang.launch_server", "-m", "--model", "/m/x", "--port", "'", '"',
    "\\", "\\ ", "\n", "#",
    "$X", "${A[@]}", "A=(", ")", "export", "=", "<<EOF", "EOF", "&", "|", ">", ";", "--", "-", "=1",
    "docker run", "-e", "-v", "a:b", "\0", "ü", "{", "`", "for i in", "do",
]  # fmt: skip


def test_no_script_however_broken_makes_the_reader_fail():
    dice = random.Random(5)
    for _ in range(1500):
        text = " ".join(dice.choice(PIECES) for _ in range(dice.randrange(1, 25)))
        for launch in read_script(text, "s").launches:
            wished(launch, CATALOGUE)
