# The half that any systemd host with NixOS-like modules can take: the plan, the host program, files, units and users.
# NixOS takes it together with host.nix; system-manager takes it alone.
{ config, lib, pkgs, ... }:
let
  planLib = import ../lib/plan.nix;
  cfg = config.services.inferhost;
  inherit (cfg) placement;
  inherit (placement) engines;
  inherit (lib) concatMap escapeShellArg mkDefault mkIf optional optionalAttrs;

  # What the configuration adds to an engine of the plan.
  added = engine: cfg.instances.${engine.instance} or { package = null; environmentFiles = [ ]; };

  # Real copies: systemd takes a link to a file of another name for an alias, and no store path can hold the "@".
  unitPackage = pkgs.runCommand "inferhost-units" { } (
    lib.concatStrings (
      lib.mapAttrsToList (name: file: ''
        install -Dm444 ${pkgs.writeText "unit" file.text} "$out"/lib/systemd/system/${escapeShellArg name}
      '') placement.units
    )
  );

  sections = lib.escapeShellArgs (concatMap (section: [ "--section" section ]) placement.applied);
  program = lib.getExe cfg.package;

  # NixOS notices changes of what it generates itself only, hence a trigger for what comes in packages.
  engineUnit =
    engine:
    let
      inherit (added engine) package environmentFiles;
    in
    lib.nameValuePair (lib.removeSuffix ".service" engine.unit) {
      overrideStrategy = "asDropin";
      wantedBy = [ "multi-user.target" ];
      restartTriggers = [ unitPackage ] ++ optional (package != null) package;
      serviceConfig = optionalAttrs (environmentFiles != [ ]) { EnvironmentFile = environmentFiles; };
    };

  # What has no file: the packaged unit, under NixOS' own rules. Stopping takes everything back, so that a generation
  # without this module leaves nothing behind; a new plan reloads, which does not. Sections are named, because one that
  # was taken back would stay so. Without the default dependencies a shutdown does not stop it: the record stays.
  applyUnit = {
    overrideStrategy = "asDropin";
    wantedBy = [ "multi-user.target" ];
    wants = [ "nvidia-persistenced.service" ];
    unitConfig.DefaultDependencies = false;
    after = [ "sysinit.target" ];
    before = map (engine: engine.unit) engines;
    reloadIfChanged = true;
    restartTriggers = [ config.environment.etc."inferhost/plan.json".source ];
    serviceConfig = {
      RemainAfterExit = true;
      ExecStart = [ "" "${program} boot --wait 60 ${sections}" ];
      ExecReload = "${program} boot ${sections}";
      ExecStop = "${program} revert ${sections}";
    };
  };

  # It starts again by itself when the plan is another one.
  guardUnit = {
    overrideStrategy = "asDropin";
    wantedBy = [ "multi-user.target" ];
    restartTriggers = [ unitPackage ];
  };

  # NixOS has NVIDIA's programs in the store.
  mpsUnit = {
    overrideStrategy = "asDropin";
    wantedBy = [ "multi-user.target" ];
    restartTriggers = [ unitPackage ];
    serviceConfig.ExecStart = [
      ""
      "${config.hardware.nvidia.package.bin}/bin/nvidia-cuda-mps-control -f"
    ];
  };

  engineLink =
    engine:
    let
      inherit (added engine) package;
    in
    optional (package != null) "L+ ${engine.executable} - - - - ${package}/bin/${baseNameOf engine.executable}";

  instances = map (engine: engine.instance) engines;
  unknown = lib.subtractLists instances (lib.attrNames cfg.instances);
  secretFiles = concatMap (instance: instance.environmentFiles) (lib.attrValues cfg.instances);
  inStore = lib.filter (lib.hasPrefix builtins.storeDir) secretFiles;
  option = "services.inferhost";
in
{
  imports = [ ./options.nix ];

  config = mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.host == placement.host;
        message = ''${option}.planFile: the plan is for "${placement.host}", ${option}.host is "${cfg.host}"'';
      }
      {
        assertion = cfg.wish == null || placement.wishSha256 == planLib.wishSha256 cfg.wish;
        message = "${option}.wish: the plan was made from another wish; plan again";
      }
      {
        assertion = unknown == [ ];
        message = "${option}.instances: ${toString unknown} is not in the plan, which has ${
          if instances == [ ] then "none" else toString instances
        }";
      }
      {
        assertion = inStore == [ ];
        message = "${option}.instances.*.environmentFiles: ${toString inStore} is in the store, where all can read it";
      }
    ];

    environment.systemPackages = [ cfg.package ];
    environment.etc = {
      "inferhost/plan.json".source = cfg.planFile;
    }
    // lib.mapAttrs (
      _: file: { inherit (file) text; } // optionalAttrs (file.mode != "0644") { inherit (file) mode; }
    ) placement.etc;

    systemd.packages = optional (placement.units != { }) unitPackage;
    systemd.services =
      lib.listToAttrs (map engineUnit engines)
      // optionalAttrs (placement.applied != [ ]) { inferhost-apply = applyUnit; }
      // optionalAttrs (placement.units ? "inferhost-guard.service") { inferhost-guard = guardUnit; }
      // optionalAttrs (placement.units ? "inferhost-mps.service") { inferhost-mps = mpsUnit; };
    # NixOS reads no [Install] of a packaged unit.
    systemd.timers = optionalAttrs (placement.units ? "inferhost-verify.timer") {
      inferhost-verify = {
        overrideStrategy = "asDropin";
        wantedBy = [ "timers.target" ];
      };
    };
    # Units of the plan name the program where Ansible installs it.
    systemd.tmpfiles.rules =
      optional (placement.units != { }) "L+ /usr/local/bin/inferhost - - - - ${program}" ++ concatMap engineLink engines;

    users = mkIf cfg.createUsers {
      users = lib.genAttrs placement.users (name: {
        isSystemUser = mkDefault true;
        group = mkDefault name;
        home = mkDefault "/nonexistent";
      });
      groups = lib.genAttrs placement.users (_: { });
    };
  };
}
