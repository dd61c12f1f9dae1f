"""What the role would tell dnf on the RHEL 9 family. Rendered from the role's own tasks; no such host was run."""

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar

from inferhost.schema import document
from tests.unit.test_driver_role import SHARED, TASKS, message
from tests.unit.test_driver_role import task as named_task
from tests.unit.test_planner_driver import BLACKWELL, FIRST, NVIDIA, planned, wish

MODULES = ("ansible.builtin.dnf", "ansible.builtin.command")
TOOLS = ["dkms", "python3-dnf-plugin-versionlock"]
SWITCH = "--setopt=module_stream_switch=True"
KERNEL_HEADERS = ["kernel-devel-5.14.0-570.el9.x86_64", "kernel-devel-matched"]


@pytest.fixture(scope="module", autouse=True)
def _plugins():
    init_plugin_loader()


def flat(listed: list[dict]) -> list[dict]:
    """The tasks of a file, those of its blocks with the block's conditions before their own."""
    found = []
    for outer in listed:
        for inner in outer.get("block", [outer]):
            both = (outer.get("when", []), inner.get("when", []))
            found.append({**inner, "when": [c for one in both for c in ([one] if isinstance(one, str) else one)]})
    return found


def rendered(name: str, card: str, restore=(), check=False, *, missing=TOOLS, wished=(), **facts) -> list[dict]:
    """The arguments of each task of a file that runs, with this card's plan; loops are rendered for each item."""
    plan = document.plain(planned({**wish(card, "rocky-9.6"), **NVIDIA, **dict(wished)}))
    variables = {
        "__inferhost_plan": plan,
        "ansible_check_mode": check,
        "__inferhost_driver_files": {"changed": True},  # as on a host that has nothing yet
        "__inferhost_installed": {
            "driver": {
                "headers": KERNEL_HEADERS,
                "restore": list(restore),
                "missing": list(missing),
                "replace": facts.get("replace", []),
            }
        },
        "__inferhost_plan_family": "dnf",
        "__inferhost_plan_moved": list(restore),
        "__inferhost_plan_release": facts.get("release", []),
        "__inferhost_plan_hold": facts.get("hold", []),
        "__inferhost_driver_applied": {"facts": {"driver": facts}},
        "__inferhost_driver_status": {"facts": {"driver": {"restore": list(restore), "hold": [], **facts}}},
    }
    loader, found = DataLoader(), []
    folder = SHARED if name.startswith("package_") else TASKS
    listed = loader.load_from_file(str(folder / name), trusted_as_template=True)
    for task in flat(listed):
        module = next((module for module in MODULES if module in task), None)
        if module is None or "dpkg" in str(task):
            continue
        for variable, text in task.get("vars", {}).items():
            variables[variable] = Templar(loader=loader, variables=variables).template(text)
        templar = Templar(loader=loader, variables=variables)
        for item in templar.template(task["loop"]) if "loop" in task else [None]:
            one = Templar(loader=loader, variables={**variables, "__name": item})
            if all(one.evaluate_conditional(condition) for condition in task["when"]):
                found.append({module.rpartition(".")[2]: one.template(task[module])})
    return found


@pytest.mark.parametrize(
    ("card", "stream", "module"),
    [
        (BLACKWELL, "nvidia-driver:580-open", "kmod-nvidia-open-dkms"),
        (FIRST, "nvidia-driver:580-dkms", "kmod-nvidia-latest-dkms"),
    ],
)
def test_tools_and_headers_come_first_then_the_stream_of_the_cards_module_then_the_driver(card, stream, module):
    assert [*rendered("dnf_tools.yml", card), *rendered("dnf.yml", card)] == [
        {"dnf": {"name": TOOLS + KERNEL_HEADERS, "install_weak_deps": False}},
        {"command": {"argv": ["dnf", "--assumeyes", SWITCH, "module", "enable", stream]}},
        {
            "dnf": {
                "name": ["nvidia-driver-cuda", module, "nvidia-persistenced"],
                "state": "present",
                "install_weak_deps": False,
                "allow_downgrade": True,
                "allowerasing": False,
            }
        },
    ]


def test_check_mode_asks_only_for_what_the_hosts_own_sources_have():
    tasks = [*rendered("dnf_tools.yml", BLACKWELL, check=True), *rendered("dnf.yml", BLACKWELL, check=True)]
    assert [task["dnf"]["name"] for task in tasks if "dnf" in task] == [TOOLS + KERNEL_HEADERS]


def test_a_host_that_has_its_packages_asks_no_source():
    assert [*rendered("dnf_tools.yml", BLACKWELL, missing=[]), *rendered("dnf.yml", BLACKWELL, missing=[])] == []


def test_a_version_that_somebody_moved_goes_back_to_the_one_that_is_locked():
    assert rendered("package_moved.yml", BLACKWELL, restore=["nvidia-driver-cuda=580.95.05-1.el9"]) == [
        {"dnf": {"name": ["nvidia-driver-cuda-580.95.05-1.el9"], "allow_downgrade": True}}
    ]


def test_versions_are_locked_by_name():
    assert rendered("package_hold.yml", BLACKWELL, hold=["nvidia-persistenced"]) == [
        {"command": {"argv": ["dnf", "versionlock", "add", "nvidia-persistenced"]}}
    ]


def test_what_only_an_earlier_plan_wanted_is_removed_after_the_new_driver_and_nothing_with_it():
    found = rendered("hold.yml", BLACKWELL, remove=["nvidia-fabricmanager"])
    assert found[0] == {"dnf": {"name": ["nvidia-fabricmanager"], "state": "absent", "autoremove": False}}


@pytest.mark.parametrize(("consent", "erases"), [(False, []), (True, ["--allowerasing"])])
def test_a_driver_that_is_there_is_synchronised_with_the_stream_before_the_rest_is_installed(consent, erases):
    there = ["kmod-nvidia-open-dkms", "nvidia-driver-cuda"]
    found = rendered(
        "dnf.yml", BLACKWELL, missing=[], replace=there, wished={"inferhost_driver_replace_packages": consent}
    )
    assert [next(iter(task)) for task in found] == ["command", "command", "dnf"]
    assert found[1] == {"command": {"argv": ["dnf", "--assumeyes", *erases, "distro-sync", *there]}}
    assert found[2]["dnf"]["allowerasing"] is consent


@pytest.mark.parametrize("consent", [False, True])
def test_what_dnf_refuses_is_told_with_the_option(consent):
    told = named_task("dnf.yml", "dnf | What dnf said is told")["ansible.builtin.fail"]["msg"]
    plan = {"driver": {"install": {"may_replace": consent}}}
    for failed in (
        {"msg": "non-zero return code", "stderr": "Error: conflicting requests\n"},
        {"msg": "Depsolve Error occurred", "failures": ["Error: conflicting requests"]},
    ):
        variables = {"__failed": failed, "__inferhost_plan": plan}
        said = Templar(loader=DataLoader(), variables=variables).template(told)
        assert "Error: conflicting requests" in said
        assert ("inferhost_driver_replace_packages: true" in said) is not consent


@pytest.mark.parametrize(
    ("failures", "epel", "headers"),
    [
        ([], False, False),
        (["No package dkms available."], True, False),
        (["No package kernel-devel-5.14.0-1.el9.x86_64 available."], False, True),
    ],
)
def test_a_tool_that_no_source_has_is_told_with_what_brings_it(failures, epel, headers):
    told = named_task("dnf_tools.yml", "dnf_tools | What is missing is named")
    said = "Failed to download metadata for repo 'x'" if not failures else "Failed to install some packages"
    words = message(told, {"ansible_failed_result": {"msg": said, "failures": failures}})
    assert words.startswith(", ".join([said, *failures]))
    assert ("EPEL" in words, "the headers of an old kernel are gone" in words) == (epel, headers)


@pytest.mark.parametrize("stream", [["enable", "nvidia-driver:570-dkms"], ["reset", "nvidia-driver"]])
def test_revert_gives_the_stream_back_before_packages_that_come_out_of_it(stream):
    restore = ["nvidia-driver-cuda=570.195.03-1.el9"]
    found = rendered("revert_dnf.yml", BLACKWELL, remove=[], restore=restore, stream=stream)
    assert found == [
        {"command": {"argv": ["dnf", "--assumeyes", SWITCH, "module", *stream]}},
        {"dnf": {"name": ["nvidia-driver-cuda-570.195.03-1.el9"], "allow_downgrade": True}},
    ]
    assert rendered("revert_dnf.yml", BLACKWELL, remove=[], stream=stream) == []


def test_revert_frees_removes_what_came_along_and_nothing_else_and_restores_versions():
    assert rendered("package_release.yml", BLACKWELL, release=["nvidia-persistenced"]) == [
        {"command": {"argv": ["dnf", "versionlock", "delete", "nvidia-persistenced"]}}
    ]
    found = rendered(
        "revert_dnf.yml",
        BLACKWELL,
        remove=["nvidia-driver-cuda", "dkms"],
        restore=["kernel-devel-matched=5.14.0-1.el9"],
        hold=["kernel-devel-matched"],
        stream=[],
    )
    assert found == [
        {"dnf": {"name": ["nvidia-driver-cuda", "dkms"], "state": "absent", "autoremove": False}},
        {"dnf": {"name": ["kernel-devel-matched-5.14.0-1.el9"], "allow_downgrade": True}},
        {"command": {"argv": ["dnf", "versionlock", "add", "kernel-devel-matched"]}},
    ]
