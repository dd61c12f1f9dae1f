"""Removes port rules of ours whose container was killed from outside, before podman could take them back.

A session that ends by killing every process leaves such rules in the kernel. The first rule of a port wins, so the
next host on that port would be unreachable. Only chains of this cache's network are touched.
"""

import itertools
import shlex
import subprocess

from .tools import output_of

JUMPS = "NETAVARK-HOSTPORT-DNAT"


def drop_leftover_rules(network: str, port: int) -> None:
    """Delete `network`'s rules for `port`, on which no container may listen now."""
    saved = subprocess.run(["iptables-save", "-t", "nat"], stdout=subprocess.PIPE, text=True, check=False).stdout
    for rule in leftover_rules(saved, network, port):
        output_of(["iptables", "-w", "-t", "nat", "-D", *rule], what="iptables -D")


def leftover_rules(saved: str, network: str, port: int) -> list[list[str]]:
    """Rules of `network` for `port` in iptables-save's text, as arguments for iptables -D, jumps first."""
    rules = [shlex.split(line)[1:] for line in saved.splitlines() if line.startswith("-A ")]
    of_port = [rule for rule in rules if ["--dport", str(port)] in map(list, itertools.pairwise(rule))]
    comment = f"dnat name: {network} id: "
    jumps = [rule for rule in of_port if rule[0] == JUMPS and any(word.startswith(comment) for word in rule)]
    chains = {rule[rule.index("-j") + 1] for rule in jumps}
    return jumps + [rule for rule in of_port if rule[0] in chains]
