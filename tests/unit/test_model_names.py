"""Names that people use for open models: each is known, and the size in a name is the one of the model found."""

import pathlib
import re

import pytest

from inferhost.planner.names import model_named
from tests.unit.planner_wishes import CATALOGUE

NAMES = (pathlib.Path(__file__).parent / "model_names.txt").read_text(encoding="utf-8").splitlines()
SIZE = re.compile(r"(?<![a-z0-9.])(\d+(?:[._]\d+)?)b(?![a-z0-9])")


@pytest.mark.parametrize("name", NAMES)
def test_a_well_known_name_is_known_and_of_its_size(name):
    found = model_named(name, CATALOGUE)
    assert found is not None
    sizes = [float(size.replace("_", ".")) * 1e9 for size in SIZE.findall(name.lower())]
    text = found.parameters - found.vision_parameters
    # A name counts all, or what is active, or neither the embeddings (Gemma) nor a tower; small ones are rounded.
    counted = (found.parameters, text, text - found.vocabulary_size * found.hidden_size, found.active_parameters or 0)
    assert not sizes or any(abs(size - own) <= 0.12 * own + 1e8 for size in sizes for own in counted), found.key
