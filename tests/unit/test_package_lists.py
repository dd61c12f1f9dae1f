"""When apt reads its lists again, which fails where any source of the host does not answer: the roles' own tasks."""

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar

from tests.unit.test_driver_role import ROLES, RUNTIME, holds, message, task

LISTS = ROLES / "inferhost_plan/tasks"
NOTHING = {
    "driver": {"missing": [], "replace": [], "restore": []},
    "runtime": {"missing": [], "replace": [], "restore": [], "ask": []},
    "balancer": {"fresh": False},
}
"""What the host says where everything is installed."""
ASKS = [
    ("driver", "missing", ["nvidia-smi"]),
    ("driver", "replace", ["nvidia-smi"]),
    ("driver", "restore", ["nvidia-smi=1"]),
    ("runtime", "missing", ["docker.io"]),
    ("runtime", "replace", ["nvidia-container-toolkit-base"]),
    ("runtime", "restore", ["nvidia-container-toolkit-base=1"]),
]


@pytest.fixture(scope="module", autouse=True)
def _plugins():
    init_plugin_loader()


def apt_tasks() -> list[tuple[str, dict]]:
    """Every task of the roles that installs with apt, with its file."""
    found = []
    for path in sorted(ROLES.glob("*/tasks/*.yml")):
        waiting = list(DataLoader().load_from_file(str(path), trusted_as_template=True) or [])
        for one in waiting:
            waiting += [*one.get("block", []), *one.get("rescue", [])]
            if one.get("ansible.builtin.apt", {}).get("state") != "absent" and "ansible.builtin.apt" in one:
                found.append((path.name, one["ansible.builtin.apt"]))
    return found


YUM = "/etc/yum.repos.d/inferhost-driver.repo"


def asks_of_dnf(changed: bool, wanted: list[str], path: str = YUM) -> list[str]:
    """What the role of the driver section has dnf asked before it installs on a host that lacks this."""
    facts = {"driver": {**NOTHING["driver"], "missing": wanted}}
    variables = {"__inferhost_installed": facts, "__inferhost_driver_files": {"changed": changed}}
    asked = task("dnf.yml", "dnf | The package lists are fresh")
    given = {name: Templar(loader=DataLoader(), variables=variables).template(v) for name, v in asked["vars"].items()}
    given |= {"__inferhost_plan": {"files": [{"section": "driver", "path": path}]}}
    asks = task("package_lists.yml", "package_lists | Our source answers (dnf)", LISTS)
    block = task("package_lists.yml", "package_lists | The package lists are read again", LISTS)
    for name, text in asks["vars"].items():
        given[name] = Templar(loader=DataLoader(), variables=given).template(text)
    if not (holds(block["when"], given) and holds(asks["when"], given)):
        return []
    return list(Templar(loader=DataLoader(), variables=given).template(asks["ansible.builtin.command"]["argv"]))


def test_dnf_is_asked_of_our_source_alone_where_something_comes_out_of_it():
    asked = ["dnf", "--disablerepo=*", "--enablerepo=inferhost-driver"]
    for changed, wanted in ((True, []), (False, ["nvidia-driver-cuda"])):
        argv = asks_of_dnf(changed, wanted)
        assert argv == [*asked, "--setopt=inferhost-driver.skip_if_unavailable=0", "--refresh", "makecache"]
    assert asks_of_dnf(False, []) == []
    assert asks_of_dnf(True, [], path="/etc/modprobe.d/inferhost-nouveau.conf") == []


def test_the_runtime_asks_the_same_before_it_installs():
    asked = task("dnf.yml", "dnf | The package lists are fresh", RUNTIME)
    assert asked["ansible.builtin.import_role"] == {"name": "inferhost_plan", "tasks_from": "package_lists"}
    option = "inferhost_runtime_toolkit_repository_url"
    assert (asked["vars"]["__inferhost_plan_repository"], asked["vars"]["__inferhost_plan_family"]) == (option, "dnf")


def test_what_dnf_says_of_our_source_is_told_with_the_option():
    option = "inferhost_driver_repository_url"
    said = "Error: Failed to download metadata for repo 'inferhost-driver'"
    variables = {
        "ansible_failed_result": {"msg": "non-zero return code", "stderr": f"{said}\n"},
        "__inferhost_plan_repository": option,
        "__inferhost_plan_family": "dnf",
    }
    told = task("package_lists.yml", "package_lists | What does not answer is said", LISTS)
    assert message(told, variables).startswith(f"{option}: {said}. Every package source")


def reads_lists(section: str, facts: dict, changed: bool) -> bool:
    """Whether the role of that section has the lists read again on a host that says this."""
    variables = {"__inferhost_installed": facts, f"__inferhost_{section}_files": {"changed": changed}}
    asked = task("apt.yml", "apt | The package lists are fresh", ROLES / f"inferhost_{section}/tasks")
    given = {name: Templar(loader=DataLoader(), variables=variables).template(v) for name, v in asked["vars"].items()}
    return holds(task("package_lists.yml", "package_lists | The package lists are read again", LISTS)["when"], given)


def test_a_host_that_has_its_packages_asks_no_archive():
    asking = []
    for file, arguments in apt_tasks():
        given = {name: arguments[name] for name in ("cache_valid_time", "update_cache") if name in arguments}
        templar = Templar(loader=DataLoader(), variables={"__inferhost_installed": NOTHING, "omit": 0})
        asking += [file] if file != "package_lists.yml" and any(map(bool, templar.template(given).values())) else []
    assert len(apt_tasks()) > 4
    assert asking == []
    assert [reads_lists(section, NOTHING, changed=False) for section in ("driver", "runtime")] == [False, False]


@pytest.mark.parametrize(("section", "fact", "value"), ASKS)
def test_the_lists_are_read_again_for_something_to_install(section, fact, value):
    facts = {**NOTHING, section: {**NOTHING[section], fact: value}}
    assert reads_lists(section, facts, changed=False)


@pytest.mark.parametrize("section", ["driver", "runtime"])
def test_a_changed_source_is_read_whatever_is_installed(section):
    assert reads_lists(section, NOTHING, changed=True)


@pytest.mark.parametrize("changed", [True, False])
def test_only_a_source_of_the_section_that_came_in_this_run_goes_again(changed):
    files = [
        {"section": "runtime", "path": "/etc/systemd/system/inferhost-cdi.service"},
        {"section": "runtime", "path": "/etc/apt/sources.list.d/inferhost-toolkit.sources"},
        {"section": "driver", "path": "/etc/apt/sources.list.d/inferhost-driver.sources"},
        {"section": "runtime", "path": "/etc/yum.repos.d/inferhost-toolkit.repo"},
    ]
    variables = {
        "__inferhost_plan": {"files": files},
        "__inferhost_plan_section": "runtime",
        "__inferhost_plan_files": {"changed": changed},
    }
    left = "package_lists | A source of ours that may not answer is not left behind"
    removes = task("package_lists.yml", left, LISTS)
    assert Templar(loader=DataLoader(), variables=variables).template(removes["loop"]) == [files[1], files[3]]
    assert holds(removes["when"], variables) is changed


@pytest.mark.parametrize(("dead", "named"), [("https://mirror.example/cuda", True), ("http://gone.example", False)])
@pytest.mark.parametrize("wished", ["https://mirror.example/cuda/", "", None])
def test_the_option_is_named_where_its_address_is_the_one_that_does_not_answer(dead, named, wished):
    option = "inferhost_driver_repository_url"
    said = f"Failed to update apt cache: E:The repository '{dead} bookworm Release' has no Release file"
    variables = {
        "ansible_failed_result": {"msg": said},
        "__inferhost_plan_repository": option,
        "__inferhost_plan_family": "apt",
    }
    variables |= {} if wished is None else {option: wished}
    told = task("package_lists.yml", "package_lists | What does not answer is said", LISTS)
    words = message(told, variables)
    assert words.startswith(f"{option}: {said}. Every" if named and wished else f"{said}. Every package source")
