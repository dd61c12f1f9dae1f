"""The balancer section: members from plans, time-outs above the longest silence, classes, and what is refused."""

import re

import pytest

from inferhost import planner
from inferhost.planner.balancer import group
from inferhost.schema.plan import read_plan
from inferhost.schema.problems import InputError
from tests.unit.planner_wishes import CATALOGUE, hardware, planned, refusal, wish

HOST = {"inferhost_manage": ["balancer"], "inferhost_hardware": hardware(os="debian-12", driver_version=None)}
DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
MODEL = "mistral-large-instruct-2411-awq"


def balancer(members=None, **own):
    """A balancer's wish; two engines where nothing else is said."""
    two = {name: {"address": f"10.0.0.{number}", "port": 30000} for number, name in enumerate(("a", "b"), 1)}
    values = {f"inferhost_balancer_{name}": value for name, value in own.items()}
    return {**HOST, "inferhost_balancer_members": two if members is None else members, **values}


def text(plan):
    return next(file.content for file in plan.files if file.path == plan.balancer.config)


def engine(host="10.0.0.1", **own):
    return {"address": "gpu.example.net", "wish": wish("rtx-pro-6000-bw-ws", MODEL, service_host=host, **own)}


def derived(others, here="lb", **own):
    values = {**HOST, "inferhost_balancer_group": "llm", **own}
    return group.with_group(values, here, others, CATALOGUE)


def test_a_host_without_a_card_can_be_a_balancer():
    plan = planned(balancer())
    assert plan.manage == ("balancer",)
    assert [member.name for member in plan.balancer.members] == ["a", "b"]


@pytest.mark.parametrize(
    ("front", "behind", "taken"),
    [("127.0.0.1", "127.0.0.1", True), ("0.0.0.0", "10.0.0.1", True), ("10.0.0.1", "127.0.0.1", False)],
)
def test_a_balancer_is_refused_the_port_of_an_engine_of_its_own_host(front: str, behind: str, taken: bool):
    members = {"a": {"address": behind, "port": 8000}}
    values = {
        **balancer(members, host=front, port=8000),
        **wish("rtx-4090", "mistral-7b-instruct-v0.3", service_engine="vllm", service_host=behind, service_port=8000),
        "inferhost_manage": ["service", "balancer"],
    }
    if taken:
        assert (
            'inferhost_balancer_port: found 8000, where the engine "main" of this host listens\n'
            "hint: inferhost_balancer_port: 8001"
        ) in refusal(values)
    values["inferhost_balancer_port"] = 8000 if not taken else 8001
    assert planned(values).balancer is not None


def test_every_setting_of_the_section_has_its_reason():
    plan = planned(balancer(tls_certificate="/etc/ssl/site.pem"))
    told = {reason.setting for reason in plan.reasons}
    assert planner.setting_paths(plan, CATALOGUE) - told == set()
    assert "balancer.tls_certificate" in told


def test_a_host_that_does_not_name_it_gets_nothing_of_it():
    plan = planned({**HOST, "inferhost_manage": []})
    assert plan.balancer is None
    assert not any("haproxy" in file.path for file in plan.files)


def test_a_plan_of_before_the_section_is_still_read():
    from inferhost.schema import document

    old = document.plain(planned(wish("rtx-4090", "mistral-7b-instruct-v0.3")))
    del old["balancer"]
    assert read_plan(old).balancer is None


def test_members_come_from_the_plans_of_the_group():
    values = derived({"a": engine(), "b": engine("0.0.0.0", service_port=31000)})
    members = planned(values).balancer.members
    assert [(m.name, m.address, m.port, m.model) for m in members] == [
        ("a", "10.0.0.1", 30000, MODEL),
        ("b", "gpu.example.net", 31000, MODEL),
    ]


def test_a_member_takes_no_more_at_once_than_its_engine_decodes():
    values = derived({"a": engine(service_max_sequences=5)})
    (member,) = planned(values).balancer.members
    assert member.max_requests == 5
    assert "server a 10.0.0.1:30000 maxconn 5" in text(planned(values))


def test_an_engine_that_only_its_own_host_reaches_is_refused_with_what_would_work():
    with pytest.raises(InputError) as refused:
        derived({"a": engine("127.0.0.1")})
    assert str(refused.value) == (
        "error: inferhost_balancer_members.a: a listens on 127.0.0.1, where the balancer finds only itself\n"
        "hint: inferhost_service_host of a: an address that the balancer's host can reach"
    )


def test_an_engine_on_the_balancer_s_own_host_may_listen_on_loopback():
    (member,) = planned(derived({"lb": engine("127.0.0.1")})).balancer.members
    assert member.address == "127.0.0.1"


def test_engines_with_different_names_are_refused():
    others = {"a": engine(), "b": engine("10.0.0.2", service_served_model_name="other")}
    assert 'a serves "mistral-large-instruct-2411-awq", b serves "other"' in refusal(derived(others))


def test_a_group_without_an_engine_is_refused():
    with pytest.raises(InputError, match='found "llm", which has no engine to serve'):
        derived({"a": engine(manage=["gpu"])})


def test_a_member_that_cannot_be_planned_is_named():
    with pytest.raises(InputError, match=r"a: inferhost_service_engine: .*triton"):
        derived({"a": engine(service_engine="triton")})


def test_the_time_out_is_above_the_longest_answer_that_the_plans_foresee():
    values = derived({"a": engine(service_context_tokens=32768, service_max_sequences=4)})
    plan = planned(values)
    (member,) = plan.balancer.members
    assert member.longest_s > 600
    assert 2 * member.longest_s <= plan.balancer.timeout_s < 2 * member.longest_s + 60
    for word in ("client", "server", "queue"):
        assert f"timeout {word} {plan.balancer.timeout_s}s" in text(plan)


def test_where_no_speed_is_known_the_time_out_is_patience():
    assert planned(balancer()).balancer.timeout_s == 600


def test_the_wish_s_own_time_out_counts():
    assert planned(balancer(timeout_s=42)).balancer.timeout_s == 42


def test_streams_are_never_held_back():
    assert "option http-no-delay" in text(planned(balancer()))
    one = {"a": {"address": "127.0.0.1", "port": 8080}}
    front = text(planned(balancer(one, program="nginx", tls_certificate="/etc/ssl/site.pem")))
    assert front.count("proxy_buffering off;") == front.count("proxy_pass") == 2


def test_a_request_of_the_longest_context_can_be_sent_again():
    members = {"a": {"address": "10.0.0.1", "port": 1, "context_tokens": 32768}}
    assert f"tune.bufsize {32768 + 8 * 32768}" in text(planned(balancer(members)))


def test_no_key_stands_in_plan_or_refusal():
    said = refusal(balancer(key_classes={"sk-very-secret": "normal"}))
    assert "sk-very-secret" not in said
    assert "is not a SHA-256 of 64 hexadecimal digits" in said
    assert DIGEST in text(planned(balancer(key_classes={DIGEST: "background"})))


def test_with_keys_the_header_can_lower_a_class_and_never_raise_it():
    lines = text(planned(balancer(key_classes={DIGEST: "normal"}))).splitlines()
    raised = [line for line in lines if "X-Priority" in line and "str(interactive)" in line]
    assert raised == []
    assert any("str(background)" in line and "interactive normal" in line for line in lines)


def test_keys_are_read_without_a_regular_expression_which_the_unit_could_not_compile():
    """Seen: HAProxy compiles one to machine code, and does not start under MemoryDenyWriteExecute."""
    assert not re.search(r"regsub|regim|-m reg|_reg ", text(planned(balancer(key_classes={DIGEST: "normal"}))))


def test_without_keys_the_header_decides():
    lines = text(planned(balancer())).splitlines()
    assert sum("X-Priority" in line for line in lines) == 3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (balancer({}), "found no engine to serve"),
        (balancer(program="nginx", tls_certificate="/etc/ssl/a.pem"), "nginx before 2 engines"),
        (balancer({"a": {"address": "10.0.0.1", "port": 1}}, program="nginx"), "nginx without a certificate"),
        ({**balancer(), "inferhost_hardware": hardware(os="rocky-9", driver_version=None)}, "balancer on rocky-9"),
        (balancer(port=0), "inferhost_balancer_port: found 0, wanted 1 to 65535"),
        (balancer(host="0.0.0.0\n  bind *:1"), "wanted an IP address"),
        (balancer(tls_certificate="/etc/ssl/a b"), "wanted an absolute path"),
        (balancer(priority_header="X Y"), "is no name of a header"),
        (balancer(key_classes={DIGEST: "urgent"}), 'found "urgent", wanted one of interactive, normal, background'),
        (balancer({"a": {"address": "10.0.0.1 check", "port": 1}}), "wanted a host name or address"),
        (balancer({"a": {"address": "10.0.0.1", "port": 70000}}), "wanted 1 to 65535"),
        (balancer({"a": {"address": "10.0.0.1", "port": 1, "health_path": "/a b"}}), "wanted a path"),
        (balancer({"a": {"adress": "10.0.0.1", "port": 1}}), "adress: is nothing that a member has"),
        (balancer({"a b": {"address": "10.0.0.1", "port": 1}}), "wanted a member"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_work_is_refused_before_anything_is_touched(values, words):
    assert words in refusal(values)
