# The module's options as nixpkgs documents them: name, type, default, text. The options of a wish are left out: they
# are those of docs/options.md.
{ libPath }:
let
  lib = import libPath;
  evaluated = lib.evalModules {
    modules = [
      ../../nix/module.nix
      ./sinks.nix
      { _module.args.pkgs = { }; }
    ];
  };
  known = lib.optionAttrSetToDocList { inherit (evaluated.options.services) inferhost; };
  ours = option: option.visible && !option.internal && !lib.hasPrefix "services.inferhost.wish." option.name;
in
map (option: {
  inherit (option) name type description;
  default = option.default.text or "required";
}) (lib.filter ours known)
