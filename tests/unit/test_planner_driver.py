"""The driver section: the branch that the cards need, from a repository that holds it, or a refusal naming one."""

import dataclasses

import pytest

from inferhost import planner
from inferhost.planner.machine.driver_packages import NOUVEAU_PATH, PIN_PATH, SOURCES_PATH, UNATTENDED_PATH, can_drive
from tests.unit.planner_wishes import CATALOGUE, gpu, hardware, planned, refusal

DRIVER = {"inferhost_manage": ["driver"]}
NVIDIA = {
    "inferhost_driver_repository": "nvidia",
    "inferhost_driver_repository_url": "https://mirror.example/cuda",
    "inferhost_driver_repository_key": "keys/nvidia.asc",
}
FIRST, BLACKWELL, EITHER = "tesla-p4", "rtx-pro-6000-bw-ws", "rtx-4090"


def wish(card, os, **own):
    values = {f"inferhost_driver_{name}": value for name, value in own.items()}
    return {**DRIVER, "inferhost_hardware": hardware(gpu(card), os=os, driver_version=None), **values}


def content(plan, path):
    return next(file.content for file in plan.files if file.path == path)


def test_without_being_named_the_section_places_nothing():
    values = {"inferhost_manage": ["gpu"], "inferhost_hardware": hardware(gpu(FIRST), os="debian-12")}
    plan = planned(values)
    assert plan.driver.install is None
    assert [f.path for f in plan.files if f.section == "driver"] == []


def test_pascal_gets_the_proprietary_module_of_the_distribution():
    install = planned(wish(FIRST, "debian-12")).driver.install
    assert (install.branch, install.kernel_module) == ("535", "proprietary")
    assert "nvidia-kernel-dkms" in install.packages
    assert not any("open" in name for name in install.packages)


def test_blackwell_gets_the_open_module():
    install = planned(wish(BLACKWELL, "ubuntu-24.04")).driver.install
    assert (install.branch, install.kernel_module) == ("580", "open")
    assert install.packages == ("nvidia-headless-580-server-open", "nvidia-utils-580-server")


@pytest.mark.parametrize("os", ["ubuntu-22.04", "ubuntu-24.04"])
def test_a_newer_branch_of_the_repository_is_taken_by_name_only(os):
    assert planned(wish(EITHER, os)).driver.install.branch == "580"
    install = planned(wish(EITHER, os, branch="595", fabric_manager=True)).driver.install
    assert install.packages == (
        "nvidia-headless-595-server-open", "nvidia-utils-595-server", "nvidia-fabricmanager-595"
    )  # fmt: skip
    assert "hint: branch 580 can" in refusal(wish(FIRST, os, branch="595"))
    assert f'found "570", {os}.distribution is known to hold 580, 595' in refusal(wish(EITHER, os, branch="570"))


@pytest.mark.parametrize(
    ("os", "branch", "kind"), [("debian-12", "535", "proprietary"), ("ubuntu-24.04", "580", "open")]
)
def test_a_card_that_takes_either_gets_the_open_module_from_the_branch_that_advises_it(os, branch, kind):
    install = planned(wish(EITHER, os)).driver.install
    assert (install.branch, install.kernel_module) == (branch, kind)


@pytest.mark.parametrize(("os", "branch", "known"), [("debian-12", 535, 570), ("debian-13", 550, 580)])
def test_a_branch_that_cannot_drive_blackwell_is_refused_with_the_repository_that_can(os, branch, known):
    assert refusal(wish(BLACKWELL, os)) == (
        f'error: inferhost_driver_repository: found "distribution", which for {os} is branch {branch}, '
        f"but {BLACKWELL} needs branch 570 or later, with the open kernel module\n"
        f"hint: inferhost_driver_repository: nvidia holds branch {known} for {os}"
    )


def test_a_branch_that_the_repository_does_not_hold_is_refused():
    assert refusal(wish(FIRST, "debian-12", branch="580")) == (
        'error: inferhost_driver_branch: found "580", debian-12.distribution is known to hold 535\n'
        "hint: branch 535 can"
    )


def test_a_branch_that_is_no_number_is_refused():
    assert 'found "newest", debian-12.distribution is known to hold 535' in refusal(
        wish(FIRST, "debian-12", branch="newest")
    )


def test_no_branch_after_its_last_can_drive_a_card():
    card = CATALOGUE.gpus[FIRST]
    assert [can_drive(branch, (card,)) for branch in (card.last_driver_branch, card.last_driver_branch + 10)] == [
        True,
        False,
    ]


def test_of_the_branches_that_can_drive_the_card_the_newest_is_taken():
    row = CATALOGUE.drivers["ubuntu-24.04.distribution"]
    drivers = {**CATALOGUE.drivers, row.key: dataclasses.replace(row, branches=(535, 570, 580, 590))}
    known = dataclasses.replace(CATALOGUE, drivers=drivers)
    assert planner.plan(wish(FIRST, "ubuntu-24.04"), "host", known).driver.install.branch == "580"


def test_the_wrong_kernel_module_is_refused():
    assert refusal(wish(FIRST, "debian-12", kernel_module="open")) == (
        'error: inferhost_driver_kernel_module: found "open", but the cards need the proprietary kernel module\n'
        "hint: auto, or proprietary"
    )


def test_a_version_of_another_branch_is_refused():
    assert refusal(wish(FIRST, "debian-12", version="580.95.05")) == (
        'error: inferhost_driver_version: found "580.95.05", wanted newest or a version of branch 535\n'
        "hint: as the package's version begins, such as 535.261.03"
    )


@pytest.mark.parametrize("version", ["535", "535.261.03;reboot", "535.261.03 "])
def test_what_is_no_version_of_a_package_is_refused(version):
    assert "wanted newest or a version of branch 535" in refusal(wish(FIRST, "debian-12", version=version))


def test_pascal_gets_the_proprietary_module_of_a_branch_that_advises_the_open_one_too():
    install = planned(wish(FIRST, "ubuntu-24.04")).driver.install
    assert (install.branch, install.kernel_module) == ("580", "proprietary")
    assert install.packages[0] == "nvidia-headless-580-server"


@pytest.mark.parametrize(("os", "known"), [("debian-12.9", True), ("debian-120", False)])
def test_a_point_release_is_its_distribution_and_another_number_is_not(os, known):
    values = wish(FIRST, os)
    if known:
        assert planned(values).driver.install.branch == "535"
    else:
        assert "the driver section knows the packages of" in refusal(values)


def test_a_found_driver_that_is_no_version_is_refused():
    values = {"inferhost_manage": ["gpu"]}
    values["inferhost_hardware"] = hardware(gpu(FIRST), os="debian-12", driver_version="the newest")
    assert 'found "the newest", wanted a version such as 580.95.05' in refusal(values)


def test_a_version_before_the_cards_first_one_is_refused():
    found = refusal({**wish(BLACKWELL, "debian-12", version="570.86.16"), **NVIDIA})
    assert 'found "570.86.16", rtx-pro-6000-bw-ws needs 570.133.07 or later' in found


def test_an_unknown_distribution_is_refused_with_those_that_are_known():
    found = refusal(wish(FIRST, "arch"))
    assert found.startswith('error: inferhost_hardware.os: found "arch", the driver section knows the packages of ')
    assert "debian-12" in found


def test_nvidias_repository_needs_its_address_and_its_key():
    found = refusal(wish(FIRST, "ubuntu-24.04", repository="nvidia"))
    assert "inferhost_driver_repository_url: is empty" in found
    assert "inferhost_driver_repository_key: is empty" in found


def test_an_address_with_a_password_is_refused():
    assert "wanted an address" in refusal(wish(FIRST, "debian-12", repository_url="https://me:secret@mirror/debian"))


def test_an_engine_that_needs_a_newer_branch_is_refused_with_the_branch():
    values = wish("rtx-3090", "debian-12")
    values |= {
        "inferhost_manage": ["driver", "service"],
        "inferhost_service_engine": "vllm",
        "inferhost_service_model": "qwen2.5-7b-instruct",
        "inferhost_service_model_path": "/srv/models/x",
    }
    least = next(row.min_driver_branch for row in CATALOGUE.engines.values() if row.engine == "vllm")
    assert f"needs branch {least} or later, this would install 535" in refusal(values)


def test_a_found_driver_that_the_section_replaces_is_no_reason_to_refuse():
    values = wish(BLACKWELL, "ubuntu-24.04")
    values["inferhost_hardware"] = {**values["inferhost_hardware"], "driver_version": "535.261.03"}
    plan = planned(values)
    assert (plan.driver.version_found, plan.driver.install.branch) == ("535.261.03", "580")


def test_a_simulated_card_needs_no_driver():
    values = {**wish(FIRST, "debian-12"), "inferhost_simulated": True}
    assert "found driver for a simulated card, which needs none" in refusal(values)


def test_the_pin_covers_all_packages_of_the_version():
    plan = planned(wish(FIRST, "debian-12", version="535.261.03"))
    pin = content(plan, PIN_PATH)
    assert pin.count("Pin: version 535.261.03*\n") == len(plan.driver.install.pinned)
    assert "Package: *nvidia*\n" in pin


def test_unattended_upgrades_keep_off_every_pinned_package():
    plan = planned(wish(FIRST, "debian-12"))
    assert '  ".*nvidia.*";\n' in content(plan, UNATTENDED_PATH)


def test_nouveau_is_kept_out():
    assert "blacklist nouveau\n" in content(planned(wish(FIRST, "debian-12")), NOUVEAU_PATH)


def test_a_repository_is_trusted_by_a_keyring_of_its_own():
    plan = planned({**wish(BLACKWELL, "ubuntu-24.04"), **NVIDIA})
    assert content(plan, SOURCES_PATH).splitlines()[1:] == [
        "Types: deb",
        "URIs: https://mirror.example/cuda/ubuntu2404/x86_64",
        "Suites: /",
        "Signed-By: /etc/apt/keyrings/inferhost-driver.asc",
    ]
    assert plan.driver.install.key == "/etc/apt/keyrings/inferhost-driver.asc"


def test_the_hosts_own_sources_are_left_alone_without_an_address():
    assert SOURCES_PATH not in [file.path for file in planned(wish(FIRST, "debian-12")).files]


@pytest.mark.parametrize(("os", "dropins"), [("ubuntu-24.04", 1), ("debian-12", 0)])
def test_persistence_is_a_drop_in_only_where_the_packaged_unit_refuses_it(os, dropins):
    plan = planned(wish(FIRST, os))
    found = [dropin for dropin in plan.dropins if dropin.section == "driver"]
    assert len(found) == dropins
    for dropin in found:
        assert dropin.unit == "nvidia-persistenced.service"
        assert "ExecStart=\nExecStart=/usr/bin/nvidia-persistenced --user" in dropin.content
        assert "--no-persistence-mode" not in dropin.content
        assert "StopWhenUnneeded=no\n" in dropin.content


def test_the_last_version_that_a_distribution_takes_is_not_passed():
    values = {**wish(BLACKWELL, "debian-12"), **NVIDIA}
    assert planned(values).driver.install.version == "570.133.20"
    assert "takes 570.133.20 at most" in refusal({**values, "inferhost_driver_version": "570.195.03"})


def test_rhel_gets_a_module_stream_and_a_repository_with_a_checked_key():
    plan = planned({**wish(BLACKWELL, "rocky-9.6"), **NVIDIA})
    assert plan.driver.install.module_stream == "nvidia-driver:580-open"
    checked = "gpgcheck=1\nskip_if_unavailable=1\ngpgkey=file:///etc/pki/rpm-gpg/inferhost-driver.asc\n"
    assert checked in plan.files[-1].content


@pytest.mark.parametrize(
    "row", [row for row in CATALOGUE.drivers.values() if row.family == "dnf"], ids=lambda r: r.key
)
def test_a_stream_holds_the_planned_branch_and_not_the_newest_of_all(row):
    assert "{branch}" in row.module_stream_open
    assert "{branch}" in row.module_stream_proprietary


def test_a_version_is_not_promised_where_the_stream_decides():
    assert "installs what its stream holds" in refusal(
        {**wish(BLACKWELL, "rocky-9.6", version="580.95.05"), **NVIDIA}
    )


def test_the_kernel_module_of_a_card_that_takes_either_can_be_wished_for():
    assert planned(wish(EITHER, "ubuntu-24.04", kernel_module="proprietary")).driver.install.kernel_module == (
        "proprietary"
    )


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({"repository_key": "keys/a.asc"}, "is set, but there is no repository_url"),
        ({"repository_url": "https://mirror.example", "repository_key": "keys/a.pem"}, "ends in .asc or .gpg"),
    ],
)
def test_a_key_without_its_address_or_of_an_unknown_form_is_refused(own, told):
    assert told in refusal(wish(FIRST, "debian-12", **own))


def test_a_repository_that_a_distribution_does_not_have_is_refused():
    assert "the driver of rocky-9.6 comes from nvidia only" in refusal(wish(FIRST, "rocky-9.6"))


@pytest.mark.parametrize("values", [{"inferhost_hardware": hardware(os="debian-12", driver_version=None)}])
def test_a_host_without_a_card_needs_no_driver(values):
    assert "found driver for no card" in refusal({**DRIVER, **values})


def test_nixos_has_a_driver_of_its_own():
    assert planned(wish(FIRST, "nixos-25.05")).driver.install is None


@pytest.mark.parametrize("own", [{}, {"replace_packages": True}])
def test_another_driver_makes_room_only_where_the_wish_says_so(own):
    assert planned(wish(FIRST, "debian-12", **own)).driver.install.may_replace is bool(own)


@pytest.mark.parametrize("own", [{}, {"reboot": True}])
def test_a_restart_needs_consent(own):
    assert planned(wish(FIRST, "debian-12", **own)).driver.install.reboot is bool(own)


@pytest.mark.parametrize("os", ["debian-12", "debian-13"])
def test_nvidias_libraries_without_its_name_are_pinned_too(os):
    """Of NVIDIA's repository, whose next branch would bring them otherwise."""
    pinned = content(planned({**wish(EITHER, os), **NVIDIA}), PIN_PATH)
    for name in ("libcuda", "libcudadebugger", "libnvcuvid", "libnvoptix"):
        assert f"Package: {name}*\nPin: version 5" in pinned


def test_without_the_wish_for_persistence_no_drop_in_is_placed():
    plan = planned({**wish(FIRST, "ubuntu-24.04"), "inferhost_gpu_persistence_mode": False})
    assert (plan.driver.install.persistence, plan.dropins) == (False, ())


def test_the_pin_also_goes_back_to_an_older_version():
    """Apt's own rule: from 1000 on."""
    assert "Pin-Priority: 1000\n" in content(planned(wish(FIRST, "debian-12")), PIN_PATH)


def test_every_row_names_packages_for_both_modules_and_a_layout():
    for row in CATALOGUE.drivers.values():
        assert row.packages_open != row.packages_proprietary, row.key
        assert row.branches, row.key
        assert row.keyring or row.repository == "nvidia", row.key


@pytest.mark.parametrize(("kind", "sign"), [("open", "-open"), ("proprietary", "")])
def test_ubuntus_signed_modules_are_named_for_the_branch_and_kind_and_debian_has_none(kind, sign):
    install = planned(wish(EITHER, "ubuntu-24.04", kernel_module=kind)).driver.install
    assert install.signed == (
        f"linux-modules-nvidia-580-server{sign}-{{kernel}}",
        f"linux-modules-nvidia-580-server{sign}-{{flavour}}",
        f"nvidia-headless-no-dkms-580-server{sign}",
        "nvidia-utils-580-server",
    )
    assert planned(wish(EITHER, "debian-12")).driver.install.signed == ()
