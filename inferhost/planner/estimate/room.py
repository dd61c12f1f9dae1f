"""Whether what llama.cpp is asked for fits the cards: refused where it cannot, told where a part stays on the host.

llama.cpp allocates before it answers anybody, so a start that does not fit is no slower start but none. Layers and
experts may live in host memory instead, and people start it so without saying how many (kv-cases.csv ikllama-25):
only a case that says `n_gpu_layers`, or whose cache alone is too large, can be refused.
"""

from __future__ import annotations

from inferhost.planner.card_names import GIB
from inferhost.planner.estimate.case import Case
from inferhost.planner.estimate.fields import Refused
from inferhost.planner.memory.weights import routed_bytes

TOLERATED_SHARE = 1.03
"""Memory of a named card differs that much between drivers, and sizes of files between makers of them."""
ALL_LAYERS = ("all", "-1", "auto")


def check_room(case: Case, weights: float, kv: float, compute: float) -> list[str]:
    """What a person should know of a start that the cards do not hold whole; `Refused` where it cannot be.

    Bytes of all cards together. A mixture's routed experts may stay in host memory whatever `n_gpu_layers` says.
    """
    if case.card is None:
        return []
    cards, layers = case.whole("gpu_count") or 1, case.model.layers + 1
    held = cards * case.card.total_bytes
    own = f"{cards} x {case.card.total_bytes / GIB:.2f} GiB"
    if kv > held * TOLERATED_SHARE:
        tokens = f"{int(held / kv * (case.whole('n_ctx', least=0) or 0))} tokens would fill them"
        raise Refused(f"n_ctx: its cache takes {kv / GIB:.2f} GiB, and {case.model.name} runs on {own}: {tokens}")
    if weights + kv + compute <= held:
        return []
    least = max(0.0, weights - routed_bytes(case.model, case.model.linear_bits))
    fitting = max(0, min(layers - 1, int((held - compute) * layers / (weights + kv))))
    asked = _layers_asked(case, layers)
    parts = f"weights {weights / GIB:.2f}, cache {kv / GIB:.2f}, buffers {compute / GIB:.2f} GiB"
    if asked is not None and (least + kv) * asked / layers + compute > held * TOLERATED_SHARE:
        raise Refused(f"n_gpu_layers: found {asked}, and {own} hold less ({parts}); about {fitting} fit")
    return [f"{own} hold less than the whole ({parts}): about {fitting} of {layers} layers fit, or fewer experts"]


def _layers_asked(case: Case, layers: int) -> int | None:
    """Layers in card memory as asked, the output layer counted; nothing where the case leaves it open."""
    said = case.text("n_gpu_layers").lower()
    if not said:
        return None
    return layers if said in ALL_LAYERS else min(layers, case.whole("n_gpu_layers", least=0) or 0)
