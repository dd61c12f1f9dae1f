"""Wishes and hardware as nobody should write them, for the property tests."""

from typing import Any

from hypothesis import strategies as st

from inferhost.schema.wish import options
from tests.unit.planner_wishes import CATALOGUE, gpu, hardware, wish

NAMES = sorted(options())
CARDS = sorted(CATALOGUE.gpus)
MODELS = sorted(CATALOGUE.models)
SMALL = [key for key in MODELS if CATALOGUE.models[key].parameters < 9e9]
POWER = ("power_min_w", "power_default_w", "power_max_w")
FACTS = (("uuid",), POWER, ("power_max_w",), ("numa_node",))
"""What discovery may find out of a card later, as it finds it: a board's range mostly as a whole."""

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 1, 2**31, 10**30, 10**400]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["", "auto", "\x00", "\ud800", "²", "--port", "-1", "9" * 5000, "$HOME", "%n", "{{ x }}", "a\nb"]
    ),
)
junk: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=8), st.integers()), inner, max_size=3),
    ),
    max_leaves=6,
)


def plausible(name: str) -> st.SearchStrategy[Any]:
    """Values of about the right kind, so that many wishes get past the form and into the planner."""
    option = options()[name]
    if option.get("choices"):
        word = st.sampled_from(option["choices"])
        return st.lists(word, max_size=3) if option["type"] == "list" else word
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "int": st.integers(-1, 70_000),
        "bool": st.booleans(),
        "list": st.lists(st.sampled_from(["0", "1", "--port", "-x", "--dtype", "half", "all"]), max_size=4),
        "dict": st.dictionaries(st.sampled_from(["main", "CUDA_CACHE_PATH", "port", "vm.x"]), junk, max_size=2),
    }
    return kinds.get(option["type"], st.sampled_from(["", "450", "/srv/x", "fp8", "127.0.0.1", "max", *MODELS[:9]]))


@st.composite
def wishes(draw: st.DrawFn) -> dict[str, Any]:
    """A wish of which some values are junk, some plausible, and the rest good; sometimes with names of nobody's."""
    values = wish(draw(st.sampled_from(["rtx-pro-6000-bw-ws", "rtx-3090", *CARDS])), draw(st.sampled_from(SMALL)))
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=4, unique=True)):
        values[name] = draw(st.one_of(scalars, junk, plausible(name), plausible(name)))
    for name in draw(st.lists(st.text(max_size=12), max_size=1)):
        values[f"inferhost_{name}"] = draw(junk)
    return values


@st.composite
def hardwares(draw: st.DrawFn) -> dict[str, Any]:
    """Hardware with a value replaced by junk somewhere."""
    card = gpu(draw(st.sampled_from(CARDS)))
    own = hardware(card)
    place = draw(st.sampled_from([own, card, own["cpu"]]))
    place[draw(st.sampled_from(sorted(place)))] = draw(junk)
    return own


@st.composite
def undiscovered(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same host twice: before discovery found something out, and after it."""
    keys = draw(st.lists(st.sampled_from(["rtx-pro-6000-bw-ws", "l40s", *CARDS]), min_size=1, max_size=2))
    after = [gpu(key, **draw(facts(number))) for number, key in enumerate(keys)]
    hidden = [name for names in draw(st.sets(st.sampled_from(FACTS), min_size=1)) for name in names]
    before = [{**card, **dict.fromkeys(hidden)} for card in after]
    driver = draw(st.sampled_from(["580.95.05", "575.51.03", "595.99.02", None]))
    found = draw(st.booleans())
    cpu = {"sockets": 2, "cores": 32, "numa_nodes": draw(st.sampled_from([1, 2])), "cpufreq": True}
    return (
        hardware(*before, cpu=cpu, driver_version=driver if found else None),
        hardware(*after, cpu=cpu, driver_version=driver),
    )


def facts(number: int) -> st.SearchStrategy[dict[str, Any]]:
    """What one board says of itself, which may differ from the data sheet of its model."""
    watts = st.tuples(st.integers(50, 200), st.integers(200, 400), st.integers(400, 700))
    return st.builds(
        lambda w, node: {
            "uuid": f"GPU-{number}",
            "power_min_w": w[0],
            "power_default_w": w[1],
            "power_max_w": w[2],
            "numa_node": node,
        },
        watts,
        st.sampled_from([0, 1]),
    )
