"""A table is what the engine's own files say, with the notes merged in; each reader on a package of a few lines."""

import json
import os
import pathlib

import pytest

from inferhost.catalogue import engine_tables, reader
from inferhost.catalogue.extract import __main__ as command
from inferhost.catalogue.extract import llama_cpp, sfllm, sglang, tabbyapi, table, vllm
from inferhost.catalogue.extract.entries import Flag, Interface, Variable
from inferhost.schema.problems import InputError

SOURCES = pathlib.Path(os.environ.get("INFERHOST_CACHE", pathlib.Path.home() / ".cache/inferhost"), "engine-sources")
"""Unpacked packages as `ENGINE-VERSION`, for the test that compares the tables with them."""


def package(root, **files):
    """Files under a root; `__` in a name is a folder."""
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return [root]


def short(flags):
    """Flags by their first name, as the fields that say more than their default."""
    return {
        f.names[0]: {k: v for k, v in vars(f).items() if k != "at" and v != getattr(Flag((), ""), k)} for f in flags
    }


VLLM = {
    "vllm__config": """
from typing import Literal
from vllm.kinds import Runner
DType = Literal["auto", "half"]
@config
class Inner:
    level: int = 0
@config
class Compilation:
    mode: int = 0
    inner: Inner = None
    _hidden: int = 0
@config
class ModelConfig:
    dtype: DType = "auto"
    runner: Runner | None = None
    backend: Literal["a", "b"] | str = "a"
    max_model_len: int = None
    max_num_batched_tokens: int | None = None
    eager: bool = False
    hf_token: bool | str | None = None
    names: list[str] | None = None
    overrides: dict[str, int] = None
    compilation: Compilation = None
""",
    "vllm__kinds": "from typing import Literal\nKind = Literal['x', 'y']\nRunner = Literal['auto', Kind]\n",
    "vllm__engine__arg_utils": """
from vllm.config import ModelConfig
human_readable_int_args = {"max_num_batched_tokens"}
_OLD_DEPRECATION_MESSAGE = "--old is deprecated. Use --dtype instead."
class EngineArgs:
    def add_cli_args(parser):
        model_kwargs = get_kwargs(ModelConfig)
        parser.add_argument("--dtype", **model_kwargs["dtype"])
        parser.add_argument("--runner", **model_kwargs["runner"])
        parser.add_argument("--backend", **model_kwargs["backend"])
        parser.add_argument("--max-model-len", **model_kwargs["max_model_len"])
        parser.add_argument("--max-tokens", **{**model_kwargs["max_num_batched_tokens"], "default": None})
        parser.add_argument("--enable-eager", "-e", **model_kwargs["eager"])
        parser.add_argument("--hf-token", **model_kwargs["hf_token"])
        parser.add_argument("--names", **model_kwargs["names"])
        parser.add_argument("--overrides", **model_kwargs["overrides"])
        parser.add_argument("--compilation", "-cc", **model_kwargs["compilation"])
        parser.add_argument("--old", action="store_true", help=_OLD_DEPRECATION_MESSAGE)
""",
    "vllm__entrypoints__common__cli_args": """
@config
class FrontendArgs:
    port: int = 8000
    allowed_origins: list[str] = None
    def _customize_cli_kwargs(cls, frontend_kwargs):
        frontend_kwargs["allowed_origins"]["type"] = json.loads
        del frontend_kwargs["allowed_origins"]["nargs"]
def make_arg_parser(parser):
    parser.add_argument("model_tag", nargs="?")
    parser.add_argument("--headless", action="store_true")
""",
    "vllm__envs": """
environment_variables = {"VLLM_PORT": lambda: os.getenv("VLLM_PORT"), "HOME": 1}
logger.warning("VLLM_ONLY_IN_A_MESSAGE")
""",
}


def test_vllm_flags_are_the_fields_of_its_config_classes(tmp_path):
    found = vllm.interface(package(tmp_path, **VLLM))
    assert short(found.flags) == {
        "--headless": {"names": ("--headless",), "takes": "no"},
        "--port": {"names": ("--port",), "type": "int"},
        "--allowed-origins": {"names": ("--allowed-origins",), "type": "json"},
        "--dtype": {"names": ("--dtype",), "choices": ("auto", "half")},
        "--runner": {"names": ("--runner",), "choices": ("auto", "x", "y", "None")},
        "--backend": {"names": ("--backend",)},
        "--max-model-len": {"names": ("--max-model-len",), "type": "size|auto"},
        "--max-tokens": {"names": ("--max-tokens",), "type": "size|none"},
        "--enable-eager": {"names": ("--enable-eager", "-e", "--no-enable-eager", "--disable-eager"), "takes": "no"},
        "--hf-token": {"names": ("--hf-token",), "takes": "optional"},
        "--names": {"names": ("--names",), "takes": "several"},
        "--overrides": {"names": ("--overrides",), "type": "json"},
        "--compilation": {
            "names": ("--compilation", "-cc"), "type": "json", "keys": ("mode", "inner", "inner.level"),
        },
        "--old": {"names": ("--old",), "takes": "no", "status": "deprecated", "replacement": "--dtype"},
    }  # fmt: skip


def test_a_variable_is_read_where_code_reads_it_and_not_where_a_message_names_it(tmp_path):
    (tmp_path / "rust").mkdir()
    (tmp_path / "rust/a.rs").write_text('#[arg(env = "VLLM_RS_A")]\nconst B_ENV: &str = "VLLM_RS_B"; log("VLLM_NO");')
    found = vllm.interface(package(tmp_path, **VLLM)).variables
    assert [(v.name, v.at) for v in found] == [
        ("VLLM_PORT", "vllm/envs.py:2"),
        ("VLLM_RS_A", "rust/a.rs:1"),
        ("VLLM_RS_B", "rust/a.rs:2"),
    ]


SGLANG = {
    "sglang__srt__server_args": """
from sglang.srt.fields import Model
class ServerArgs:
    def add_cli_args(parser):
        parser.add_argument("--gone", action=DeprecatedAction, help="Deprecated. Use --port instead.")
_INPUT_NAMESPACES = [Model]
ServerArgs = defstruct("ServerArgs")
""",
    "sglang__srt__fields": """
from typing import List, Literal, Optional
from sglang.srt.choices import POLICIES
class Model:
    port: A[int, "The port."] = 30000
    tp_size: A[int, Arg(help="h", aliases=["--tensor-parallel-size"])] = 1
    policy: A[str, Arg(help="h", choices=POLICIES + ["own"])] = "fcfs"
    mode: A[Literal["x", "y"], "h"] = "x"
    sizes: A[Optional[List[int]], "h"] = None
    flag: A[bool, "h"] = False
    both: A[bool, Arg(help="h", action=argparse.BooleanOptionalAction)] = True
    overrides: A[str, Arg(help="h", type_parser=json.loads)] = "{}"
    hidden: A[int, Arg(no_cli=True)] = 1
    plain: int = 1
""",
    "sglang__srt__choices": 'POLICIES = ["lpm", "fcfs"]\n',
    "sglang__srt__environ": """
class Envs:
    SGLANG_ON = EnvBool(True)
    SGLANG_KEY = EnvStr("", secret=True)
    other = 1
_DEPRECATED_ENVS = {"SGLANG_OLD": _DeprecatedEnv(note="Please use '--port' instead.")}
""",
    "sglang__use": 'x = get_bool_env_var("SGLANG_HELPER") or "SGLANG_TEST" in os.environ or os.environ["SGL_X"]\n',
}


def test_sglang_flags_are_its_annotated_fields(tmp_path):
    found = sglang.interface(package(tmp_path, **SGLANG))
    assert short(found.flags) == {
        "--port": {"names": ("--port",), "type": "int"},
        "--tp-size": {"names": ("--tp-size", "--tensor-parallel-size"), "type": "int"},
        "--policy": {"names": ("--policy",), "choices": ("lpm", "fcfs", "own")},
        "--mode": {"names": ("--mode",), "choices": ("x", "y")},
        "--sizes": {"names": ("--sizes",), "takes": "several", "type": "int"},
        "--flag": {"names": ("--flag",), "takes": "no"},
        "--both": {"names": ("--both", "--no-both"), "takes": "no"},
        "--overrides": {"names": ("--overrides",), "type": "json"},
        "--gone": {"names": ("--gone",), "status": "deprecated", "replacement": "--port"},
    }
    assert [(v.name, v.status, v.secret) for v in found.variables] == [
        ("SGLANG_HELPER", "real", False),
        ("SGLANG_KEY", "real", True),
        ("SGLANG_OLD", "removed", False),
        ("SGLANG_ON", "real", False),
        ("SGLANG_TEST", "real", False),
        ("SGL_X", "real", False),
    ]


def test_tabbyapi_flags_and_variables_are_the_fields_of_its_models(tmp_path):
    source = """
class ModelConfig(BaseModel):
    vision: Optional[bool] = Field(False)
    gpu_split: List[float] = Field([])
    draft_mode: Literal["model", "ngram"] = "model"
    _metadata: int = 1
class TabbyConfigModel(BaseModel):
    model: Optional[ModelConfig] = ModelConfig()
"""
    found = tabbyapi.interface(package(tmp_path, common__config_models=source))
    assert short(found.flags) == {
        "--vision": {"names": ("--vision",), "type": "bool", "variables": ("TABBY_MODEL_VISION",)},
        "--gpu-split": {"names": ("--gpu-split",), "takes": "several", "variables": ("TABBY_MODEL_GPU_SPLIT",)},
        "--draft-mode": {
            "names": ("--draft-mode",), "choices": ("model", "ngram"), "variables": ("TABBY_MODEL_DRAFT_MODE",),
        },
    }  # fmt: skip


def test_sfllm_flags_are_its_add_argument_calls(tmp_path):
    arguments = (
        'p.add_argument("--quantization", type=str, choices=[None, "fp8"])\np.add_argument("--b", nargs="+")\n'
    )
    files = {"sfllm__server_args": arguments, "sfllm__serving__app": 'p.add_argument("--port", type=int)\n'}
    found = sfllm.interface(package(tmp_path, **files))
    assert short(found.flags) == {
        "--quantization": {"names": ("--quantization",), "choices": ("fp8",)},
        "--b": {"names": ("--b",), "takes": "several"},
        "--port": {"names": ("--port",), "type": "int"},
    }


def test_llama_cpp_flags_are_the_options_of_its_help():
    help_text = """\
----- common params -----

-c,    --ctx-size N                     size of the prompt context (default: 0)
                                        (env: LLAMA_ARG_CTX_SIZE)
--temp N                                temperature (default: 0.80)
-sm,   --split-mode {none,layer}
                                        how to split
-dev,  --device <dev1,dev2,..>          devices to compute on
--jinja, --no-jinja                     whether to use jinja (default: enabled)
                                        (env: LLAMA_ARG_JINJA)
-lm,   --load-mode MODE                 model loading mode (default: auto)
                                        - auto: mmap, unless a device does not
                                        - mlock: keep it in RAM
--draft-max N                           the argument has been removed. use --spec-draft-n-max or
                                        another one
"""
    jinja = ("LLAMA_ARG_JINJA", "LLAMA_ARG_NO_JINJA")
    assert short(llama_cpp.flags(help_text)) == {
        "-c": {"names": ("-c", "--ctx-size"), "type": "int", "variables": ("LLAMA_ARG_CTX_SIZE",)},
        "--temp": {"names": ("--temp",)},
        "-sm": {"names": ("-sm", "--split-mode"), "choices": ("none", "layer")},
        "-dev": {"names": ("-dev", "--device")},
        "--jinja": {"names": ("--jinja", "--no-jinja"), "takes": "no", "variables": jinja},
        "-lm": {"names": ("-lm", "--load-mode"), "choices": ("auto", "mlock")},
        "--draft-max": {"names": ("--draft-max",), "status": "removed", "replacement": "--spec-draft-n-max"},
    }


FOUND = Interface(
    (Flag(("-k", "--key"), "a.py:1"), Flag(("--port",), "a.py:2", type="int")), (Variable("E_A", "a.py:3"),)
)


def test_a_note_adds_to_what_the_source_says():
    notes = [
        {"engine": "e", "names": ["--key"], "secret": True},
        {"engine": "e", "names": ["--prot"], "status": "renamed", "replacement": "--port", "source": "README"},
        {"engine": "e", "names": ["--later"], "secret": True},
        {"engine": "other", "names": ["--port"], "secret": True},
    ]
    merged = table.merge(FOUND, notes, "e")
    assert merged.flags == [
        {"names": ["--key", "-k"], "at": "a.py:1", "secret": True},
        {"names": ["--port"], "at": "a.py:2", "type": "int"},
        {"names": ["--prot"], "status": "renamed", "replacement": "--port", "source": "README"},
    ]
    assert merged.variables == [{"name": "E_A", "at": "a.py:3"}]
    assert merged.unused == ["--later"]


def test_a_note_that_the_source_contradicts_is_an_error():
    notes = [{"engine": "e", "names": ["--port"], "status": "removed", "replacement": "nothing", "source": "x"}]
    with pytest.raises(InputError) as refused:
        table.merge(FOUND, notes, "e")
    assert str(refused.value) == (
        "error: engine_notes.json: rows[0]: --port is removed by this note, and a.py:2 has it\nhint: remove the note"
    )


def test_a_written_table_is_read_back_with_its_source(tmp_path):
    head = {"engine": "e", "version": "1", "origin": "e 1 sdist", "variables_origin": "e 1 sdist"}
    table.write(tmp_path / "e-1.json", head, table.merge(FOUND, [], "e"))
    rows = engine_tables.FlagRows(tmp_path)
    row = rows["e-1/--port"]
    assert (row.type, row.takes, row.status, row.source) == ("int", "one", "real", "e 1 sdist: a.py:2")
    assert rows.table("e-1").variables["E_A"].source == "e 1 sdist: a.py:3"
    assert sorted(rows) == ["e-1/--key", "e-1/--port"]


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("takes", "two", 'flags[0].takes: found "two", wanted one of no, one, optional, several, any'),
        ("status", "removed", "flags[0].replacement: is empty, and a refusal has to name what would work"),
        ("at", None, "flags[0].source: is empty"),
        ("tpye", "int", "flags[0].tpye: is not a known key"),
    ],
)
def test_a_table_is_read_strictly(field, value, text):
    whole = {"engine": "e", "version": "1", "origin": "o", "variables_origin": "o", "variables": []}
    flag = {"names": ["--a"], "at": "x:1", field: value}
    with pytest.raises(InputError) as refused:
        engine_tables.read(json.dumps({**whole, "flags": [flag]}), "e-1.json")
    assert text in str(refused.value)


def test_a_folder_that_is_not_the_engine_is_refused(tmp_path, capsys):
    assert command.main(["vllm", str(tmp_path), "--version", "1", "--to", str(tmp_path)]) == 2
    assert "give the folder that holds vllm/" in capsys.readouterr().err


@pytest.mark.parametrize("version", reader.load().flags.versions)
def test_the_notes_are_in_the_tables(version):
    """A table written before a note was added, or edited by hand, shows here."""
    whole = json.loads((command.TABLES / f"{version}.json").read_text())
    notes = [n for n in json.loads(command.NOTES.read_text())["rows"] if n["engine"] == whole["engine"]]
    for note in notes:
        said = {name: value for name, value in note.items() if name not in ("engine", "name", "names", "source")}
        rows = [r for r in whole["flags"] if set(note.get("names", ())) & set(r["names"])]
        rows += [r for r in whole["variables"] if r["name"] == note.get("name")]
        assert rows, note
        assert all(said.items() <= {"status": "real", **row}.items() for row in rows), note


@pytest.mark.parametrize("version", reader.load().flags.versions)
def test_the_tables_are_what_the_engines_sources_say(version):
    folder = SOURCES / version
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: {version} is not compared with its source (docs/catalogue.md says how)")
    whole = json.loads((command.TABLES / f"{version}.json").read_text())
    sources = [folder / "help.txt", folder] if whole["engine"] == "llama.cpp" else [folder]
    origins = ["--origin", whole["origin"], "--variables-origin", whole["variables_origin"]]
    assert (
        command.main([whole["engine"], *map(str, sources), "--version", whole["version"], *origins, "--check"]) == 0
    )
