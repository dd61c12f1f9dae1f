"""The runtime section: the engine that is there or the distribution's, if it knows CDI, or a refusal naming one."""

import pytest

from inferhost.planner.machine.runtime import CDI_UNIT, PIN_PATH, REPO_PATH, SOURCES_PATH, version_numbers
from tests.unit.planner_wishes import CATALOGUE, gpu, hardware, planned, refusal

CARD = "rtx-5090"
TOOLKIT = {"toolkit_repository_url": "https://mirror.example/toolkit/", "toolkit_repository_key": "keys/nvidia.asc"}


def wish(os="debian-13", engines=(), **own):
    values = {f"inferhost_runtime_{name}": value for name, value in own.items()}
    host = hardware(gpu(CARD), os=os, container_engines=list(engines))
    return {"inferhost_manage": ["runtime"], "inferhost_hardware": host, **values}


def content(plan, path):
    return next(file.content for file in plan.files if file.path == path)


def test_without_being_named_the_section_places_nothing():
    plan = planned({"inferhost_manage": ["gpu"], "inferhost_hardware": hardware(gpu(CARD))})
    assert plan.runtime is None
    assert [entry for entry in (*plan.files, *plan.dropins) if entry.section == "runtime"] == []


@pytest.mark.parametrize(
    ("os", "engine"),
    [("debian-12", "podman"), ("debian-13", "podman"), ("ubuntu-22.04", "docker"), ("rhel-9.6", "podman")],
)
def test_a_bare_host_gets_the_engine_that_its_distribution_has_with_cdi(os, engine):
    runtime = planned(wish(os)).runtime
    assert runtime.engine == engine
    assert runtime.packages == CATALOGUE.runtimes[f"{'el-9' if os.startswith('rhel') else os}.{engine}"].packages
    assert runtime.toolkit == ("nvidia-container-toolkit-base",)


@pytest.mark.parametrize("present", ["docker 28.5.1", "podman 5.4.2"])
def test_the_engine_that_is_there_is_kept_and_nothing_installed_over_it(present):
    runtime = planned(wish(engines=[present])).runtime
    assert f"{runtime.engine} {runtime.version}" == present
    assert runtime.packages == ()


def test_the_wish_names_the_other_engine_beside_the_one_that_is_there():
    runtime = planned(wish(engines=["podman 5.4.2"], engine="docker")).runtime
    assert (runtime.engine, runtime.packages) == ("docker", ("docker.io", "docker-cli"))


def test_docker_is_told_to_read_specifications_and_starts_after_them():
    plan = planned(wish(engine="docker"))
    assert plan.runtime.daemon == {"features": {"cdi": True}}
    assert [(d.unit, d.entries) for d in plan.dropins] == [
        ("docker.service", (("Unit", "Wants", CDI_UNIT), ("Unit", "After", CDI_UNIT)))
    ]


def test_podman_has_no_daemon_to_tell():
    plan = planned(wish(engine="podman"))
    assert (plan.runtime.daemon, plan.runtime.unit, plan.dropins) == ({}, None, ())


def test_an_engine_without_cdi_is_refused_with_one_that_has_it():
    assert refusal(wish("debian-12", engine="docker")) == (
        "error: inferhost_runtime_engine: docker 20.10.24 is what the distribution has, and it knows no CDI: "
        "docker 25 is the first that does\nhint: inferhost_runtime_engine: podman; or install a docker of 25 or later"
    )


def test_an_old_engine_that_is_there_is_refused_and_never_replaced():
    found = refusal(wish("ubuntu-22.04", engines=["docker 24.0.7"]))
    assert "docker 24.0.7 is installed, and it knows no CDI" in found
    assert "then discover again" in found


def test_an_unknown_distribution_is_refused():
    assert 'found "arch", the runtime section knows the packages of' in refusal(wish("arch"))


def test_the_toolkit_repository_is_named_by_a_keyring_file():
    plan = planned(wish(**TOOLKIT))
    assert content(plan, SOURCES_PATH).splitlines()[1:] == [
        "Types: deb",
        "URIs: https://mirror.example/toolkit/stable/deb/$(ARCH)/",
        "Suites: /",
        "Signed-By: /etc/apt/keyrings/inferhost-toolkit.asc",
    ]
    assert plan.runtime.key == "/etc/apt/keyrings/inferhost-toolkit.asc"
    repository = content(planned(wish("rocky-9", **TOOLKIT)), REPO_PATH)
    assert "baseurl=https://mirror.example/toolkit/stable/rpm/$basearch" in repository
    assert "gpgcheck=1\nskip_if_unavailable=1\n" in repository


@pytest.mark.parametrize("missing", list(TOOLKIT))
def test_address_and_key_come_together(missing):
    given = {name: value for name, value in TOOLKIT.items() if name != missing}
    assert f"error: inferhost_runtime_{missing}: is empty, and the other is not" in refusal(wish(**given))


def test_a_version_of_the_toolkit_is_pinned_in_any_packaging_and_without_one_nothing_is():
    plan = planned(wish(toolkit_version="1.20.1"))
    assert content(plan, PIN_PATH).splitlines()[1:] == [
        "Package: nvidia-container-toolkit*",
        "Pin: version 1.20.1-*",
        "Pin-Priority: 1000",
        "",
        "Package: libnvidia-container*",
        "Pin: version 1.20.1-*",
        "Pin-Priority: 1000",
    ]
    assert plan.runtime.toolkit_version == "1.20.1-*"
    assert "Pin: version 1.20.1-1" in content(planned(wish(toolkit_version="1.20.1-1")), PIN_PATH).splitlines()
    newest = planned(wish())
    assert newest.runtime.toolkit_version is None
    assert PIN_PATH not in [file.path for file in newest.files]


@pytest.mark.parametrize(
    ("os", "version", "says"),
    [
        ("debian-13", "latest", 'found "latest", wanted newest or a version'),
        ("debian-13", "1.20", 'found "1.20", wanted newest or a version'),
        ("rocky-9", "1.20.1", "el-9.podman installs what its repository holds"),
    ],
)
def test_a_version_of_the_toolkit_that_cannot_be_pinned_is_refused(os, version, says):
    told = refusal(wish(os, toolkit_version=version))
    assert "error: inferhost_runtime_toolkit_version: " in told
    assert says in told
    assert "newest: it is locked" in told or "such as 1.20.1" in told


def test_versions_compare_as_numbers():
    assert version_numbers("26.1.5+dfsg1") > version_numbers("4.4") > version_numbers("4.3.1")
    assert version_numbers("unknown") == ()


def test_nixos_has_its_own():
    assert planned(wish("nixos-25.11")).runtime is None
