"""What a revert of the runtime section leaves to somebody else: docker's group."""

from __future__ import annotations

from inferhost.host.machine import Finished
from tests.unit.host.fake_host import FakeHost, plan
from tests.unit.host.test_host_runtime import docker, runtime

GROUPS = "root:x:0:\ndocker:x:999:{}\n"


def brought(host: FakeHost, package: str = "docker.io", members: str = "") -> FakeHost:
    """A host that got this engine from us, whose package made the group."""
    host.plan = plan(manage=("runtime",), runtime=runtime(packages=(package,)), service=(), dropins=(), files=())
    there = {"libc6"}
    host.tools = {"docker": docker(cdi_folders='["/run/cdi"]')}
    host.tools["dpkg-query"] = lambda _: Finished(0, "".join(f"{name}\t1\tii \t\t\n" for name in sorted(there)), "")
    host.tools["apt-get"] = lambda argv: Finished(0, "".join(f"Purg {name} [1]\n" for name in there & set(argv)), "")
    assert host.run("install").code == 0
    there.add(package)
    host.installed = there
    for path in ("/usr/bin/docker", "/usr/bin/dockerd"):
        host.write(path, "")
    host.write("/etc/group", GROUPS.format(members))
    return host


def removal(host: FakeHost) -> tuple[list[str], bool]:
    """The packages that the role would remove, and whether it would remove the group."""
    found = host.run("status").document["facts"]["runtime"]
    return found["remove"], found["docker_group"]


def purged(host: FakeHost) -> None:
    """As after the role removed the package."""
    host.installed.discard("docker.io")
    for path in ("/usr/bin/docker", "/usr/bin/dockerd"):
        host.at(path).unlink()


def test_the_group_goes_with_the_docker_that_came_with_us(host: FakeHost):
    brought(host)
    assert removal(host) == (["docker.io"], True)
    purged(host)
    assert removal(host) == ([], True)
    host.write("/etc/group", "root:x:0:\n")
    assert removal(host) == ([], False)


def test_a_docker_that_took_its_place_keeps_its_group_and_the_revert_ends(host: FakeHost):
    brought(host)
    host.installed.discard("docker.io")
    host.installed.add("docker-ce")
    assert removal(host) == ([], False)
    answer = host.run("revert", "--section", "runtime")
    assert answer.verdict("runtime.packages") == ("held", "none")


def test_a_docker_put_there_by_hand_keeps_its_group(host: FakeHost):
    brought(host)
    purged(host)
    host.write("/usr/local/bin/dockerd", "")
    assert removal(host) == ([], False)


def test_a_group_with_members_stays_and_is_named_and_the_revert_ends(host: FakeHost):
    brought(host, members="ops,me")
    assert removal(host) == (["docker.io"], False)
    purged(host)
    answer = host.run("revert", "--section", "runtime")
    assert answer.verdict("runtime.packages") == ("held", "none")
    assert "group docker: ops, me is in it; left" in answer.document["notes"]


def test_a_user_whose_first_group_it_is_counts_as_a_member(host: FakeHost):
    brought(host)
    host.write("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nci:x:1000:999::/home/ci:/bin/sh\n")
    assert removal(host) == (["docker.io"], False)


def test_a_group_that_came_with_no_package_of_ours_stays(host: FakeHost):
    brought(host, package="podman")
    host.at("/usr/bin/dockerd").unlink()
    assert removal(host) == (["podman"], False)
