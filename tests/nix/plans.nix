# T0: what nix/lib/plan.nix makes of plans. `files` names a JSON list of plan files, read with all checks; `given` a
# JSON list of plans as they are, whose placement is taken and compared by text, a refusal included.
{ files ? null, given ? null }:
let
  planLib = import ../../nix/lib/plan.nix;
  list = file: builtins.fromJSON (builtins.readFile file);
  attempted =
    plan:
    let
      tried = builtins.tryEval (builtins.toJSON (planLib.placement plan));
    in
    if tried.success then tried.value else "refused";
in
{
  inherit (planLib) readableSchemas sections;
  placements = map (file: planLib.placement (planLib.read (/. + file))) (list files);
  texts = map (file: planLib.files (planLib.read (/. + file))) (list files);
  attempts = map attempted (list given);
}
