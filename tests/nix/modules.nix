# T1: our modules and one configuration under the real module system, with sinks for what NixOS declares.
# Packages are attribute sets that remember how they were made: nothing is built here.
{ libPath, configuration }:
let
  lib = import libPath;
  package = name: attributes: { type = "derivation"; inherit name; outPath = "/nix/store/${name}"; } // attributes;
  pkgs = {
    config.allowUnfree = config.nixpkgs.config.allowUnfree or false;
    runCommand = name: attributes: script: package name ({ inherit script; } // attributes);
    # In place of a path, words that make bash hand the text over: the build scripts run without a store.
    writeText = name: text: package name { outPath = "<(printf %s ${lib.escapeShellArg text})"; };
    callPackage = _file: _arguments: package "inferhost" { meta.mainProgram = "inferhost"; };
    llama-cpp = package "llama-cpp" { override = _: package "llama-cpp-cuda" { }; };
  };
  evaluated = lib.evalModules {
    modules = [
      ../../nix/module.nix
      ./sinks.nix
      configuration
      {
        _module.args = { inherit pkgs; };
        boot.kernelPackages.nvidiaPackages = {
          stable.version = "595.99.02";
          legacy_580.version = "580.178.04";
        };
      }
    ];
  };
  inherit (evaluated) config;
in
{
  failed = map (a: a.message) (lib.filter (a: !a.assertion) config.assertions);
  inherit (config) warnings;
  sysctl = lib.filterAttrs (_: value: value != null) config.boot.kernel.sysctl;
  etc = lib.mapAttrs (_: file: { inherit (file) text mode; }) config.environment.etc;
  planSource = toString (config.environment.etc."inferhost/plan.json" or { source = ""; }).source;
  unitScripts = map (p: p.script) config.systemd.packages;
  services = lib.mapAttrs (_: service: removeAttrs service [ "restartTriggers" ]) config.systemd.services;
  triggers = lib.mapAttrs (_: service: map (trigger: "${trigger}") service.restartTriggers) config.systemd.services;
  inherit (config.systemd) timers;
  resume = config.powerManagement.resumeCommands;
  tmpfiles = config.systemd.tmpfiles.rules;
  activation = lib.mapAttrs (_: script: script.text) config.system.activationScripts;
  limits = config.security.pam.loginLimits;
  governor = config.powerManagement.cpuFreqGovernor;
  ports = config.networking.firewall.allowedTCPPorts;
  users = config.users.users;
  groups = lib.attrNames config.users.groups;
  videoDrivers = config.services.xserver.videoDrivers;
  graphics = config.hardware.graphics.enable;
  containerToolkit = config.hardware.nvidia-container-toolkit.enable;
  nvidia = {
    inherit (config.hardware.nvidia) open nvidiaPersistenced;
    inherit (config.hardware.nvidia.package) version;
  };
  wish = config.services.inferhost.wish;
}
