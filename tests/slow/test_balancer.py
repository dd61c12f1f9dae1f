"""The balancer role on one host before an engine that holds its answers: placed, asked, refused, taken back.

A held answer shows without a clock whether a front holds pieces back: the engine sends the last piece only after the
client has seen the first.
"""

import datetime
import hashlib
import json
import subprocess

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.bed.driver_host import BOOK_KEEPING
from tests.bed.fleet import SANDBOX, WITHOUT_A_CARD
from tests.bed.playbook import NAME, PORT, ROOT, bed, run_playbook, snapshot
from tests.bed.snapshot import differences

HOST, SSH_PORT = f"{NAME}-front", int(PORT) + 15
WORK, SOCKET = "/tmp/held", "/run/inferhost-haproxy/admin.sock"
RUNS = ("check", "first")
BATCH_KEY, CHAT_KEY = "sk-of-a-batch-job", "sk-of-people-who-wait"
CERTIFICATE = "/etc/ssl/front.pem"
MINE = "# somebody's own\ndefaults\n  mode http\n  timeout connect 1s\n  timeout client 1s\n  timeout server 1s\n"


def digest(key):
    return hashlib.sha256(key.encode()).hexdigest()


class Front:
    """The host, its inventory, and its states as the judge of a revert sees them."""

    def __init__(self, folder) -> None:
        self.inventory = folder / "hosts.yml"
        connection = yaml.safe_load((SANDBOX / "host_vars/sandbox-gb200/connection.yml").read_text())
        self.values = {
            **connection,
            "ansible_port": SSH_PORT,
            "inferhost_manage": ["balancer"],
            "inferhost_simulated": True,
            "inferhost_hardware": WITHOUT_A_CARD,
            "inferhost_balancer_members": {"held": {"address": "127.0.0.1", "port": 9001, "max_requests": 1}},
            "inferhost_balancer_key_classes": {digest(BATCH_KEY): "background", digest(CHAT_KEY): "interactive"},
        }

    def play(self, playbook="site.yml", *arguments, **own):
        self.inventory.write_text(yaml.safe_dump({"front": {"hosts": {"front": {**self.values, **own}}}}))
        return run_playbook(playbook, "-i", str(self.inventory), "--diff", *arguments)

    def on(self, *command):
        return bed("exec", HOST, *command)

    def snapshot(self):
        found = snapshot((ROOT / "tests/bed/bed", "exec", HOST))
        left_out = (*BOOK_KEEPING, "/run/haproxy")  # the package makes it, and leaves it to the next boot
        found["paths"] = {path: what for path, what in found["paths"].items() if not path.startswith(left_out)}
        return found

    def ask(self, *words, scheme="http", port="8000"):
        argv = [ROOT / "tests/bed/bed", "exec", HOST, "python3", "-", scheme, port, WORK, *words]
        script = (ROOT / "tests/bed/front_client.py").read_text()
        done = subprocess.run(argv, input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def put(self, path, content, mode="0644"):
        argv = [ROOT / "tests/bed/bed", "exec", HOST, "sh", "-c", f"install -m {mode} -D /dev/stdin {path}"]
        subprocess.run(argv, input=content, text=True, check=True)

    def held_engine(self):
        self.put("/tmp/held_engine.py", (ROOT / "tests/bed/held_engine.py").read_text())
        self.on("mkdir", "-p", WORK)
        self.on("systemd-run", "--quiet", "--unit", "held-engine", "python3", "/tmp/held_engine.py", "9001", WORK)


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    host = Front(tmp_path_factory.mktemp("front"))
    bed("up", HOST, str(SSH_PORT))
    try:
        yield host
    finally:
        bed("down", HOST)


@pytest.fixture(scope="module")
def placed(front):
    """The host before, in check mode, after the first run and the second."""
    found = {"before": front.snapshot(), "check": front.play("site.yml", "--check"), "checked": front.snapshot()}
    found |= {"first": front.play(), "second": front.play()}
    return found


@pytest.fixture(scope="module")
def asked(front, placed):
    """What clients saw of HAProxy before the held engine."""
    assert placed["first"].code == 0, placed["first"].told()
    front.held_engine()
    front.on("inferhost", "balancer", "--server", "held", "--state", "ready", "--wait", "30")
    batch, chat = (f"Authorization:Bearer {key}" for key in (BATCH_KEY, CHAT_KEY))
    queue = [f"batch={batch}", "late=X-Priority:background", "pushy=X-Priority:interactive", f"chat={chat}"]
    return {"first": front.ask("first"), "order": front.ask("order", SOCKET, *queue)}


@pytest.fixture(scope="module")
def behind_tls(front, asked):
    """nginx instead: refused with a key that everybody can read, then placed and asked over TLS."""
    wish = {"inferhost_balancer_program": "nginx", "inferhost_balancer_tls_certificate": CERTIFICATE}
    chain, key = a_certificate()
    front.put(CERTIFICATE, chain)
    front.put(f"{CERTIFICATE}.key", key)
    loose = front.play(**wish)
    front.put(f"{CERTIFICATE}.key", key, "0600")
    placed = front.play(**wish)
    front.on("sh", "-c", f"rm -f {WORK}/go-*")
    return loose, placed, front.ask("first", scheme="https")


def a_certificate():
    """A certificate of the test's own and its key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "front")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    signed = (
        builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=2)).sign(key, hashes.SHA256())
    )
    plain = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return signed.public_bytes(Encoding.PEM).decode(), key.private_bytes(*plain).decode()


@pytest.fixture(scope="module")
def reverted(front, behind_tls):
    leftovers = f"/tmp/held /tmp/held_engine.py {CERTIFICATE} {CERTIFICATE}.key"
    front.on("sh", "-c", f"systemctl stop held-engine; rm -rf {leftovers}")
    ran = front.play("playbooks/revert.yml")
    return ran, front.snapshot()


@pytest.fixture(scope="module")
def beside_another(front, reverted):
    """A host that has a HAProxy of its own: first on our port, then beside us, then without us again."""
    # The distribution's unit binds a device of the host's log, which a container does not have.
    front.put("/etc/systemd/system/haproxy.service.d/container.conf", "[Service]\nBindReadOnlyPaths=\n")
    front.put("/etc/haproxy/haproxy.cfg", MINE + "listen mine\n  bind *:8000\n  http-request return status 200\n")
    front.on("sh", "-c", "apt-get -qq -o Dpkg::Options::=--force-confold install -y haproxy >/dev/null 2>&1")
    taken = front.play()
    front.put("/etc/haproxy/haproxy.cfg", MINE + "listen mine\n  bind *:8080\n  http-request return status 200\n")
    front.on("systemctl", "restart", "haproxy")
    before = front.on("systemctl", "show", "-p", "MainPID", "haproxy")
    beside = front.play()
    gone = front.play("playbooks/revert.yml")
    after = front.on("systemctl", "show", "-p", "MainPID", "haproxy")
    return taken, beside, gone, before, after, front.on("cat", "/etc/haproxy/haproxy.cfg")


def test_check_mode_announces_what_the_first_run_changes_and_writes_nothing(placed):
    assert placed["check"].code == 0, placed["check"].told()
    assert placed["checked"] == placed["before"]
    changed = {run: {name.partition(" | ")[0] for name, yes, _ in placed[run].changes() if yes} for run in RUNS}
    assert changed["check"] == changed["first"]


def test_the_second_run_changes_nothing(placed):
    assert placed["first"].code == 0, placed["first"].told()
    assert placed["second"].code == 0, placed["second"].told()
    assert [name for name, changed, _ in placed["second"].changes() if changed] == []


def test_the_distribution_s_own_unit_does_not_run(front, placed):
    assert front.on("sh", "-c", "systemctl is-enabled haproxy || true").strip() == "disabled"


def test_a_stream_is_not_held_back(asked):
    assert asked["first"]["first"] == "data: first"
    assert asked["first"]["rest"] == "data: last"


def test_what_is_not_for_clients_is_not_passed_on(asked):
    assert asked["first"]["statuses"] == {"/health": 200, "/metrics": 404, "/slots": 404}


def test_who_waits_is_served_by_class(asked):
    assert asked["order"] == ["holder", "chat", "pushy", "batch", "late"]


def test_a_key_that_everybody_can_read_is_refused(behind_tls):
    loose, _, _ = behind_tls
    assert loose.code != 0
    assert f"{CERTIFICATE}.key can be read by everybody (mode 0644)" in loose.told()


def test_the_tls_front_takes_the_place_of_the_balancer_and_holds_no_stream_back(behind_tls):
    _, placed, seen = behind_tls
    assert placed.code == 0, placed.told()
    assert (seen["first"], seen["rest"]) == ("data: first", "data: last")
    assert seen["statuses"] == {"/health": 200, "/metrics": 404, "/slots": 404}


def test_the_balancer_s_unit_went_with_the_change(front, behind_tls):
    states = front.on("sh", "-c", "systemctl is-active inferhost-haproxy inferhost-nginx || true").split()
    assert states == ["inactive", "active"]


def test_revert_leaves_the_host_as_it_was(placed, reverted):
    ran, after = reverted
    assert ran.code == 0, ran.told()
    assert differences(placed["before"], after) == []


def test_a_port_that_another_haproxy_holds_is_refused_before_anything_is_placed(beside_another):
    taken = beside_another[0]
    assert taken.code != 0
    assert "inferhost_balancer_port: port 8000 is taken by haproxy" in taken.told()


def test_another_haproxy_is_left_alone(beside_another):
    _, beside, gone, before, after, text = beside_another
    assert beside.code == 0, beside.told()
    assert gone.code == 0, gone.told()
    assert before == after
    assert text.startswith(MINE)
