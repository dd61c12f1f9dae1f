"""llama.cpp's Containerfile really built, in both stages, with a stand-in of its source and without the toolkit.

What podman does is real: packages, the fetch of one commit, CMake with the card's architecture, the copy, the user
and the health check. What is compiled is a program of thirty lines; the real one wants NVIDIA's images.
"""

import json
import subprocess
import sys

import pytest

from tests.bed.playbook import NAME, ROOT

sys.path.insert(0, str(ROOT / "tests/bed"))
from bedlib.image import base_image
from bedlib.machine import suite
from bedlib.podman import Podman

TAG, ENGINE = "localhost/inferhost/standin-llama.cpp:test", f"{NAME}-image"


def commit(folder) -> str:
    """The stand-in's source as a repository of its own, by its commit."""
    source = ROOT / "tests/bed/standin_engine"
    own = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["cp", "-r", f"{source}/.", str(folder)], check=True)
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "the stand-in"]):
        subprocess.run([*own, *words], check=True)
    return subprocess.run([*own, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def podman(tmp_path_factory):
    found, folder = Podman(), tmp_path_factory.mktemp("source")
    revision, base = commit(folder), base_image(found, suite())
    arguments = {
        "BUILD_IMAGE": base, "RUN_IMAGE": base, "REPOSITORY": "/repository", "REVISION": revision,
        "CUDA_ARCHITECTURES": "61-real", "GGML_CUDA": "OFF",
    }  # fmt: skip
    words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    file = str(ROOT / "containers/llama.cpp.Containerfile")
    found.output(
        "build",
        "--format",
        "docker",
        "--volume",
        f"{folder}:/repository:ro",
        "-t",
        TAG,
        *words,
        "-f",
        file,
        str(folder),
    )
    yield found
    found.output("rm", "--force", "--ignore", "--time", "1", ENGINE)
    found.output("rmi", "--force", TAG)


def run(podman, *words: str) -> None:
    # As docker and podman hand it to containers where the host is behind a proxy.
    proxied = ("--env", "http_proxy=http://127.0.0.1:9")
    podman.output("run", "-d", "--replace", "--network", "none", *proxied, "--name", ENGINE, TAG, *words)


def test_the_image_runs_without_root_and_checks_its_health_by_a_token(podman):
    (found,) = json.loads(podman.output("image", "inspect", TAG))
    assert found["Config"]["User"] == "65532:65532"
    assert found["Config"]["Entrypoint"] == ["/app/llama-server"]
    assert "/v1/completions" in " ".join(found["Healthcheck"]["Test"])


def test_the_cards_architecture_reached_the_compiler(podman):
    run(podman)
    podman.output("exec", ENGINE, "sh", "-c", "until curl --noproxy '*' -s http://127.0.0.1:8080; do sleep 0.2; done")
    assert podman.output("logs", ENGINE) == "built for 61-real"


def test_health_follows_the_token(podman):
    for words, healthy in (((), True), (("no tokens",), False)):
        run(podman, *words)
        podman.output(
            "exec", ENGINE, "sh", "-c", "until curl --noproxy '*' -s http://127.0.0.1:8080; do sleep 0.2; done"
        )
        assert podman.succeeds("healthcheck", "run", ENGINE) is healthy


def test_no_compiler_came_along(podman):
    run(podman)
    for program in ("cc", "cmake", "git", "nvcc"):
        assert not podman.succeeds("exec", ENGINE, "sh", "-c", f"command -v {program}"), program
