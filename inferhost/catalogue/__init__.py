"""What is known about cards, models, engines, flags and variables: data with a source per row, and its reader.

`load()` gives the frozen `Catalogue`. The rows are facts; what follows from them is decided in `inferhost.planner`.
"""

from inferhost.catalogue.reader import Catalogue, load

__all__ = ["Catalogue", "load"]
