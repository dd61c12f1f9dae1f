# T2: one of our examples as a whole NixOS configuration of the given nixpkgs. Evaluated, not built.
{ nixpkgs, configuration }:
let
  lib = import (nixpkgs + "/lib");
  system = import (nixpkgs + "/nixos/lib/eval-config.nix") {
    inherit lib;
    system = "x86_64-linux";
    modules = [ configuration ];
  };
  inherit (system) config;
  unit = name: config.systemd.units.${name}.text;
in
{
  failed = map (a: a.message) (lib.filter (a: !a.assertion) config.assertions);
  warnings = lib.filter (lib.hasPrefix "services.inferhost") config.warnings;
  sysctl = config.boot.kernel.sysctl;
  etc = lib.mapAttrs (_: file: file.text) (lib.filterAttrs (name: _: lib.hasInfix "inferhost" name) config.environment.etc);
  units = {
    apply = unit "inferhost-apply.service";
    engine = unit "inferhost-serve@main.service";
    persistence = unit "nvidia-persistenced.service";
  };
  packages = map (package: package.name) config.systemd.packages;
  activation = config.system.activationScripts.inferhost-record.text;
  limits = config.security.pam.loginLimits;
  governor = config.powerManagement.cpuFreqGovernor;
  user = { inherit (config.users.users.inferhost) isSystemUser home group; };
  driver = {
    inherit (config.hardware.nvidia) open;
    inherit (config.hardware.nvidia.package) version;
    modules = map (package: package.name) config.boot.extraModulePackages;
  };
  toplevel = config.system.build.toplevel.drvPath;
}
