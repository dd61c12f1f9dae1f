# Declarations of the NixOS options that our modules write into, with the types of nixpkgs (25.05), so that nixpkgs'
# own `lib` alone can evaluate them. Nothing here has an effect. A sink says nothing about whether the option still
# exists in today's nixpkgs: that is what tier T2 is for.
{ lib, ... }:
let
  inherit (lib) mkOption types;
  option = default: type: mkOption { inherit default type; };
  flag = option false types.bool;
  texts = option [ ] (types.listOf types.str);
  group = options: types.submodule { inherit options; };

  limit = group {
    domain = mkOption { type = types.str; };
    type = mkOption { type = types.enum [ "-" "hard" "soft" ]; };
    item = mkOption { type = types.enum [ "core" "nofile" "memlock" "nproc" "rtprio" ]; };
    value = mkOption { type = types.oneOf [ types.str types.int ]; };
  };
  service = group {
    description = option "" types.str;
    overrideStrategy = option "asDropinIfExists" (types.enum [ "asDropinIfExists" "asDropin" ]);
    wantedBy = texts;
    wants = texts;
    after = texts;
    before = texts;
    reloadIfChanged = flag;
    restartTriggers = option [ ] (types.listOf types.unspecified);
    unitConfig = option { } (types.attrsOf types.unspecified);
    serviceConfig = option { } (types.attrsOf types.unspecified);
  };
  etcFile = group {
    text = option null (types.nullOr types.lines);
    source = option null (types.nullOr types.path);
    mode = option "symlink" types.str;
  };
  activation = group {
    deps = texts;
    text = option "" types.lines;
  };
in
{
  # As nixpkgs does for every driver from 560 on.
  config.hardware.nvidia.open = lib.mkDefault true;

  options = {
    assertions = option [ ] (types.listOf types.unspecified);
    warnings = texts;
    boot.kernel.sysctl = option { } (
      types.submodule {
        freeformType = types.attrsOf (types.nullOr (types.oneOf [ types.bool types.int types.str ]));
        options."net.core.rmem_max" = option null (types.nullOr types.ints.unsigned);
        options."net.core.wmem_max" = option null (types.nullOr types.ints.unsigned);
      }
    );
    boot.kernelPackages = option { } types.raw;
    environment.systemPackages = option [ ] (types.listOf types.package);
    environment.etc = option { } (types.attrsOf etcFile);
    hardware.graphics.enable = flag;
    hardware.nvidia.open = option null (types.nullOr types.bool);
    hardware.nvidia.nvidiaPersistenced = flag;
    hardware.nvidia.datacenter.enable = flag;
    hardware.nvidia.package = option { version = "580.95.05"; } types.raw;
    hardware.nvidia-container-toolkit.enable = flag;
    networking.hostName = option "nixos" types.str;
    networking.firewall.allowedTCPPorts = option [ ] (types.listOf types.port);
    programs.nix-ld.enable = flag;
    powerManagement.resumeCommands = option "" types.lines;
    powerManagement.cpuFreqGovernor = option null (types.nullOr types.str);
    security.pam.loginLimits = option [ ] (types.listOf limit);
    services.xserver.videoDrivers = option [ "modesetting" "fbdev" ] (types.listOf types.str);
    services.lact.enable = flag;
    services.tuned.enable = flag;
    services.power-profiles-daemon.enable = flag;
    system.activationScripts = option { } (types.attrsOf activation);
    system.stateVersion = option "" types.str;
    nixpkgs.config = option { } (types.attrsOf types.anything);
    systemd.packages = option [ ] (types.listOf types.package);
    systemd.services = option { } (types.attrsOf service);
    systemd.timers = option { } (types.attrsOf service);
    systemd.tmpfiles.rules = texts;
    users.groups = option { } (types.attrsOf (group { }));
    users.users = option { } (
      types.attrsOf (group {
        isSystemUser = flag;
        isNormalUser = flag;
        group = option "" types.str;
        home = option "/var/empty" types.path;
      })
    );
    fileSystems = option { } (types.attrsOf types.anything);
    boot.loader = option { } types.anything;
  };
}
