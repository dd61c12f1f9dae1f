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

  # What has no file: the same calls that the roles make. Stopping takes everything back, so that a generation without
  # this module leaves nothing behind; a new plan reloads, which does not. Without the default dependencies a shutdown
  # does not stop it either: the record of what was here before stays.
  applyUnit = {
    description = "Apply the settings of the Inferhost plan that have no file";
    wantedBy = [ "multi-user.target" ];
    wants = [ "nvidia-persistenced.service" ];
    unitConfig.DefaultDependencies = false;
    after = [ "sysinit.target" "nvidia-persistenced.service" ];
    before = map (engine: engine.unit) engines;
    reloadIfChanged = true;
    restartTriggers = [ config.environment.etc."inferhost/plan.json".source ];
    serviceConfig = {
      Type = "oneshot";
      RemainAfterExit = true;
      ExecStart = "${program} apply ${sections}";
      ExecReload = "${program} apply ${sections}";
      ExecStop = "${program} revert ${sections}";
      SuccessExitStatus = 7; # something is pending, e.g. a driver that answers after the next boot only
    };
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
      // optionalAttrs (placement.applied != [ ]) { inferhost-apply = applyUnit; };
    # Units of the plan name the program where Ansible installs it.
    systemd.tmpfiles.rules =
      optional (engines != [ ]) "L+ /usr/local/bin/inferhost - - - - ${program}" ++ concatMap engineLink engines;

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
