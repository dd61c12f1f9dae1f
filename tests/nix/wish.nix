# T0: the hash that a wish has, as nix/lib/plan.nix computes it.
{ wish }:
(import ../../nix/lib/plan.nix).wishSha256 (builtins.fromJSON (builtins.readFile wish))
