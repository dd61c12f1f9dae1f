"""When the role does what cannot be taken back lightly: restart a host, remove packages, go on without a module.

The conditions are the role's own, evaluated on this machine, which here is the one that runs Ansible.
"""

import itertools
import pathlib
import sys

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar

from tests.unit.test_playbooks import ansible_playbook

ROLES = pathlib.Path(__file__).resolve().parents[2] / "roles"
TASKS = ROLES / "inferhost_driver/tasks"
RUNTIME = ROLES / "inferhost_runtime/tasks"
SHARED = ROLES / "inferhost_plan/tasks"
"""What every role may import; those of packages begin with `package_`."""
OWN_BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
OTHER_BOOT_ID = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module", autouse=True)
def _plugins():
    init_plugin_loader()


def task(file: str, name: str, folder: pathlib.Path = TASKS) -> dict:
    """The task of that name, wherever in the file's blocks."""
    waiting = list(DataLoader().load_from_file(str(folder / file), trusted_as_template=True))
    for one in waiting:
        if one.get("name") == name:
            return one
        waiting += [*one.get("block", []), *one.get("rescue", [])]
    raise AssertionError(f"{file} has no task named {name}")


def holds(condition: str | list[str], variables: dict) -> bool:
    templar = Templar(loader=DataLoader(), variables=variables)
    return all(
        templar.evaluate_conditional(one) for one in ([condition] if isinstance(condition, str) else condition)
    )


def message(told: dict, variables: dict) -> str:
    """What a task that fails or shows something says, its own variables filled in the order in which they stand."""
    for name, text in told.get("vars", {}).items():
        variables = {**variables, name: Templar(loader=DataLoader(), variables=variables).template(text)}
    words = told.get("ansible.builtin.fail", told.get("ansible.builtin.debug"))["msg"]
    return Templar(loader=DataLoader(), variables=variables).template(words)


@pytest.mark.parametrize(
    ("required", "consent", "boot_id"),
    list(itertools.product([True, False], [True, False], [OWN_BOOT_ID, OTHER_BOOT_ID])),
)
def test_a_host_is_restarted_where_that_helps_where_it_is_allowed_and_never_the_controller(
    required, consent, boot_id
):
    variables = {
        "__inferhost_driver_reboot_required": required,
        "__inferhost_plan": {"driver": {"install": {"reboot": consent}}},
        "__inferhost_driver_applied": {"facts": {"driver": {"boot_id": boot_id}}},
    }
    restarts = task("module.yml", "module | The host runs the installed module")
    assert "inferhost_reboot" in restarts
    assert holds(restarts["when"], variables) is (required and consent and boot_id == OTHER_BOOT_ID)


@pytest.mark.parametrize("drifted", [True, False])
def test_a_module_that_is_not_there_stops_the_run(drifted):
    proof = task("module.yml", "module | A module of this version is built for the kernel that boots next")
    assert holds(proof["ansible.builtin.assert"]["that"], {"__inferhost_driver_applied": {"drifted": drifted}}) is (
        not drifted
    )


@pytest.mark.parametrize("consent", [True, False])
def test_packages_make_room_for_the_driver_only_with_consent(consent):
    """dnf's; what apt may do is in test_driver_room.py."""
    variables = {"__inferhost_plan": {"driver": {"install": {"may_replace": consent}}}}
    installs = task("dnf.yml", "dnf | The driver's packages are installed")
    templar = Templar(loader=DataLoader(), variables=variables)
    assert templar.template(installs["ansible.builtin.dnf"]["allowerasing"]) is consent


REMOVED = "Reading\nThe following packages will be REMOVED:\n  cuda-12-8\n  cuda-tools\n0 upgraded\n"
"""As apt-get says what would go, before it says that nothing may."""


def test_what_did_not_come_back_one_by_one_is_said_with_what_brings_a_newer_one():
    told = task("package_back.yml", "package_back | What did not come back is said", SHARED)
    lost = {"__together": ["nvidia-smi=470.1-1"], "failed": True, "stderr_lines": ["E: Version '470.1-1' not found"]}
    back = {"__together": ["libcuda1=470.1-1"], "failed": False, "stderr_lines": []}
    variables = {"ansible_failed_result": {"msg": "One or more items failed", "results": [lost, back]}}
    assert (
        message(told, variables)
        == "E: Version '470.1-1' not found (apt-get install nvidia-smi brings what the archive has now)"
    )


def test_packages_come_back_together_and_where_that_fails_each_by_itself():
    back = task("package_back.yml", "package_back | What was there before comes back", SHARED)
    rescued = task("package_back.yml", "package_back | One that does not come keeps no other away", SHARED)
    asked = [block["block"][0]["vars"]["__inferhost_plan_versions"] for block in (back, rescued)]
    for restore in ([], ["libcuda1=470.1-1", "nvidia-smi=470.1-1"]):
        variables = {"__inferhost_plan_back": restore}
        templar = Templar(loader=DataLoader(), variables=variables)
        assert [templar.template(one) for one in asked] == [[restore] if restore else [], [[one] for one in restore]]


@pytest.mark.parametrize(
    ("accepts", "way_out"),
    [
        ("inferhost_driver_version: 535.309.01", "inferhost_driver_version: 535.309.01 takes the one that is there"),
        ("", "playbooks/revert.yml gives it up, and site.yml then takes what they have"),
    ],
)
@pytest.mark.parametrize(
    ("failed", "said"),
    [
        ({"msg": "One or more items failed", "results": [{"stderr": "E: Version not found", "msg": "rc"}]}, "E: Ver"),
        ({"msg": "Failed to install some of the specified packages"}, "Failed to install some"),
        ({"msg": "rc", "results": [{"stderr": "E: Packages need", "stdout": REMOVED}]}, "E: Packages need"),
    ],
)
def test_a_held_version_that_no_source_has_any_more_is_told_with_what_would_work(accepts, way_out, failed, said):
    told = task(
        "package_moved.yml", "package_moved | What works where no package source has it any more is said", SHARED
    )
    variables = {"__inferhost_plan_moved": ["libcuda1=535.261.03-1"], "__inferhost_plan_accepting": accepts}
    words = message(told, {**variables, "ansible_failed_result": failed})
    assert words.startswith(said)
    assert "libcuda1=535.261.03-1: held by us and changed by somebody else" in words
    assert words.endswith(way_out)
    assert ("cuda-12-8, cuda-tools would be removed for it." in words) is ("REMOVED" in str(failed))


@pytest.mark.parametrize(
    ("section", "file", "anchor", "option"),
    [
        ("driver", "apt_packages.yml", "nvidia-kernel-dkms", "inferhost_driver_version"),
        ("runtime", "apt.yml", "nvidia-container-toolkit-base", "inferhost_runtime_toolkit_version"),
    ],
)
def test_a_planned_version_that_no_source_has_is_told_with_the_option(section, file, anchor, option):
    told = task(file, f"{file[:-4]} | What apt said is told", ROLES / f"inferhost_{section}/tasks")
    plan = {"driver": {"install": {"packages": [anchor]}}, "runtime": {"toolkit": [anchor]}}
    for failed, is_told in ((f"no available installation candidate for {anchor}=1.2*", True), ("unmet", False)):
        words = message(told, {"ansible_failed_result": {"msg": failed}, "__inferhost_plan": plan})
        assert words.startswith(failed)
        assert (f"{option} takes a version" in words and f"apt-cache madison {anchor} lists" in words) is is_told
        assert is_told or words == failed


def test_what_would_have_to_go_for_an_engine_stays_and_is_named():
    installs = task("apt.yml", "apt | The engine and the toolkit are installed", RUNTIME)["ansible.builtin.apt"]
    assert installs["fail_on_autoremove"] is True  # apt-get --no-remove
    told = task("apt.yml", "apt | What apt said is told", RUNTIME)
    failed = {"msg": "E: Packages need to be removed but remove is disabled.", "stdout": REMOVED}
    plan = {"runtime": {"toolkit": ["nvidia-container-toolkit-base"]}}
    words = message(told, {"ansible_failed_result": failed, "__inferhost_plan": plan})
    assert "disabled. cuda-12-8, cuda-tools would be removed for it: remove it first" in words


@pytest.mark.parametrize("problems", [["would remove their-tool too"], []])
def test_a_revert_that_would_take_a_package_of_somebody_else_stops(problems):
    guard = task("revert.yml", "revert | Nothing of somebody else's would go with it")
    variables = {"__inferhost_driver_status": {"facts": {"problems": problems}}}
    assert holds(guard["ansible.builtin.assert"]["that"], variables) is (not problems)


@pytest.mark.parametrize(
    ("managed", "install"), [([], {}), (["gpu"], {"x": 1}), (["driver"], None), (["driver"], {"x": 1})]
)
def test_nothing_is_placed_without_being_asked_for(managed, install):
    placed = task("main.yml", "The driver section is placed")
    variables = {"__inferhost_plan": {"manage": managed, "driver": {"install": install}}}
    assert holds(placed["when"], variables) is ("driver" in managed and install is not None)


@pytest.mark.parametrize(("check", "changed"), list(itertools.product([True, False], [True, False])))
def test_check_mode_asks_for_no_package_of_a_source_that_it_has_not_placed(check, changed):
    variables = {
        "ansible_check_mode": check,
        "__inferhost_driver_files": {"changed": changed},
        "__inferhost_installed": {
            "driver": {"ask": ["libcuda1"], "release": [], "missing": ["libcuda1"], "replace": []}
        },
        "__headers": ["linux-headers-amd64"],
    }
    for file, name in (
        ("apt.yml", "apt | Every kernel of this host can get a module"),
        ("apt_packages.yml", "apt_packages | The driver's packages are installed"),
        ("apt_packages.yml", "apt_packages | Nothing of somebody else's makes room for the driver unasked"),
        ("dnf.yml", "dnf | What is in the driver's way is named with the option"),
    ):
        assert holds(task(file, name)["when"], variables) is (not (check and changed)), name
    assert holds(task("main.yml", "What check mode cannot know is said")["when"], variables) is (check and changed)


@pytest.mark.parametrize(("check", "release"), list(itertools.product([True, False], [["libcuda1"], []])))
def test_check_mode_shows_what_would_move_where_it_has_freed_nothing_and_leaves_the_resolver_alone(check, release):
    variables = {
        "ansible_check_mode": check,
        "__inferhost_driver_files": {"changed": False},
        "__inferhost_installed": {"driver": {"ask": ["nvidia-smi"], "release": release}},
    }
    installs = task("apt_packages.yml", "apt_packages | The driver's packages are installed")
    assert holds(installs["when"], variables) is not (check and bool(release))
    shown = task("apt_room.yml", "apt_room | What would move is shown where check mode has freed nothing")
    assert holds(shown["when"], variables) is (check and bool(release))


INSTALLS = {
    "apt": "apt | A toolkit that does not come is told with the wish",
    "dnf": "dnf | The engine and the toolkit are installed",
}


@pytest.mark.parametrize(("check", "changed"), list(itertools.product([True, False], [True, False])))
@pytest.mark.parametrize("family", ["apt", "dnf"])
def test_check_mode_asks_for_no_toolkit_of_a_source_that_it_has_not_placed(family, check, changed):
    variables = {
        "ansible_check_mode": check,
        "__inferhost_runtime_files": {"changed": changed},
        "__inferhost_installed": {"runtime": {"missing": ["podman"], "ask": ["podman"]}},
    }
    packages = task(f"{family}.yml", INSTALLS[family], RUNTIME)
    assert holds(packages["when"], variables) is (not (check and changed))
    nothing = {"runtime": {"missing": [], "ask": []}}
    assert not holds(packages["when"], {**variables, "__inferhost_installed": nothing})
    said = task("main.yml", "What check mode cannot know is said", RUNTIME)
    assert holds(said["when"], variables) is (check and changed)


@pytest.mark.parametrize(
    ("daemon", "made"), [({}, []), ({"folder": ""}, []), ({"folder": "/etc/docker"}, ["/etc/docker"])]
)
def test_a_folder_of_the_daemon_that_is_there_keeps_its_mode(daemon, made):
    folders = task("files.yml", "files | Drop-ins and the daemon's configuration have their folders", RUNTIME)
    dropin = "/etc/systemd/system/docker.service.d/50-inferhost.conf"
    variables = {"__dropins": [{"path": dropin}], "__daemon": daemon}
    found = Templar(loader=DataLoader(), variables=variables).template(folders["loop"])
    assert found == ["/etc/systemd/system/docker.service.d", *made]


@pytest.mark.parametrize("family", ["apt", "dnf"])
def test_what_the_hosts_own_sources_lack_is_found_before_anything_is_placed(family):
    steps = task("main.yml", "The driver section is placed")["block"]
    names = [one.get("ansible.builtin.include_tasks", one.get("ansible.builtin.import_tasks")) for one in steps]
    tools = names.index("dnf_tools.yml")
    placing = next(number for number, one in enumerate(steps) if "files.yml" in str(one.get("block")))
    assert tools < placing
    plan = {"driver": {"install": {"family": family}}}
    assert holds(steps[tools]["when"], {"__inferhost_plan": plan}) is (family == "dnf")


@pytest.mark.parametrize(
    ("facts", "said", "spared"),
    [
        ({"endangered": "", "runtime": {}}, True, True),
        ({"endangered": "container old (docker) would lose the cards"}, True, False),
        ({"problems": [{"message": "dpkg-query: no answer in 30 s"}]}, False, None),
    ],
)
def test_every_revert_stops_where_containers_would_suffer_or_the_host_did_not_say(facts, said, spared):
    variables = {"__inferhost_plan_status": {"facts": facts}}
    asked = task("spared.yml", "spared | The host has said what came with us", SHARED)
    assert holds(asked["ansible.builtin.assert"]["that"], variables) is said
    name = "spared | Containers that would lose their cards are named before anything is touched"
    if spared is not None:
        assert holds(task("spared.yml", name, SHARED)["ansible.builtin.assert"]["that"], variables) is spared
    for role in ("balancer", "service", "runtime", "driver"):
        listed = DataLoader().load_from_file(str(ROLES / f"inferhost_{role}/tasks/revert.yml"))
        used = [one.get("ansible.builtin.import_role", {}).get("tasks_from") for one in listed[:2]]
        assert used == [None, "spared"], role


STUBS = {
    "inferhost_plan/tasks/install.yml": [],
    "inferhost_driver/tasks/files.yml": [
        {
            "name": "A file",
            "ansible.builtin.command": "true",
            "changed_when": True,
            "notify": "Initramfs is made again",
        }
    ],
    "inferhost_driver/tasks/apt.yml": [{"name": "apt", "ansible.builtin.fail": {"msg": "no package matching"}}],
    "inferhost_plan/tasks/package_moved.yml": [],
    "inferhost_driver/tasks/hold.yml": [],
    "inferhost_driver/tasks/module.yml": [{"name": "Proven", "ansible.builtin.debug": {"msg": "never reached"}}],
    "inferhost_driver/handlers/main.yml": [
        {"name": "Initramfs is made again", "ansible.builtin.debug": {"msg": "made again"}}
    ],
}


def test_an_initramfs_that_has_to_know_of_a_file_is_made_even_where_the_packages_do_not_come(tmp_path):
    """The next run finds the file as it should be. The role's own order, with stand-ins for what it includes."""
    for name, tasks in STUBS.items():
        (tmp_path / "roles" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "roles" / name).write_text(yaml.safe_dump(tasks))
    (tmp_path / "roles/inferhost_driver/tasks/main.yml").write_text((TASKS / "main.yml").read_text())
    values = {
        "__inferhost_plan": {"manage": ["driver"], "driver": {"install": {"family": "apt", "packages": ["x"]}}},
        "__inferhost_driver_files": {"changed": True},
    }
    play = {"hosts": "localhost", "gather_facts": False, "vars": values, "roles": ["inferhost_driver"]}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    code, output = ansible_playbook(str(tmp_path / "play.yml"), "-e", "ansible_python_interpreter=" + sys.executable)
    assert code != 0
    assert "no package matching" in output
    assert "made again" in output, output
    assert "never reached" not in output


def test_only_what_is_missing_is_named_to_apt_because_it_marks_that_as_wanted_by_name():
    driver = {"headers": ["linux-headers-1", "linux-headers-2"], "missing": ["ibstat", "linux-headers-2", "libcuda1"]}
    plan = {"driver": {"install": {"tools": ["there", "ibstat"]}}}
    variables = {"__inferhost_installed": {"driver": driver}, "__inferhost_plan": plan}
    wanted = task("apt.yml", "apt | Every kernel of this host can get a module")["vars"]["__headers"]
    named = Templar(loader=DataLoader(), variables=variables).template(wanted)
    assert sorted(named) == ["ibstat", "linux-headers-2"]
    runtime = task("apt.yml", "apt | The engine and the toolkit are installed", RUNTIME)
    assert runtime["ansible.builtin.apt"]["name"] == "{{ __inferhost_installed.runtime.ask }}"
    installs = task("apt_packages.yml", "apt_packages | The driver's packages are installed")
    assert installs["ansible.builtin.apt"]["name"] == "{{ __inferhost_installed.driver.ask }}"
    assert not holds(
        installs["when"], {"ansible_check_mode": False, "__inferhost_installed": {"driver": {"ask": []}}}
    )
