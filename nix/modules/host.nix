# The half that only NixOS has options for: driver, kernel parameters, login limits, firewall, and what must not be set
# beside Inferhost.
{ config, lib, pkgs, ... }:
let
  planLib = import ../lib/plan.nix;
  cfg = config.services.inferhost;
  inherit (cfg) placement;
  inherit (lib) mkDefault mkIf mkMerge optional;
  inherit (placement) driver governor sysctl;
  inherit (config.hardware) nvidia;
  driverProblem = planLib.driverProblem driver nvidia.package.version;
  branches = config.boot.kernelPackages.nvidiaPackages;

  # Over the defaults of nixpkgs modules and of a generated hardware-configuration.nix, under anything a person writes.
  overDefaults = lib.mkOverride 900;

  kernelText = value: if value == false then "0" else toString value;
  sysctlConflict =
    name: wanted:
    let
      found = config.boot.kernel.sysctl.${name};
    in
    {
      assertion = found == null || kernelText found == toString wanted;
      message =
        ''boot.kernel.sysctl."${name}": found ${kernelText found}, the plan says ${toString wanted}; ''
        + "remove it, or set it in inferhost_cpu_sysctl and plan again";
    };

  # Programs that write what a section of the plan writes: one owner each.
  otherWriters = {
    lact = "gpu";
    tuned = "cpu";
    power-profiles-daemon = "cpu";
    tlp = "cpu";
    auto-cpufreq = "cpu";
  };
  writerConflict = name: section: {
    assertion = !(lib.elem section placement.applied && config.services.${name}.enable or false);
    message =
      "services.${name}.enable: it writes settings of the section ${section} too; "
      + "turn it off, or leave that to it in inferhost_manage and plan again";
  };

  publicPorts = map (engine: engine.port) (lib.filter (engine: engine.public) placement.engines);

  unfreeAllowed =
    pkgs.config.allowUnfree or false
    || pkgs.config ? allowUnfreePredicate
    || pkgs.config.allowUnfreePackages or [ ] != [ ];
in
{
  imports = [ ./options.nix ];

  config = mkIf cfg.enable (mkMerge [
    {
      boot.kernel.sysctl = lib.mapAttrs (_: overDefaults) sysctl;
      security.pam.loginLimits = placement.loginLimits;
      networking.firewall.allowedTCPPorts = lib.optionals cfg.openFirewall publicPorts;
      # The host program sets the governor, and knows the one to go back to.
      powerManagement.cpuFreqGovernor = mkIf (governor != null) (overDefaults null);

      # The unit stays active here, so its own tie to suspend.target would start nothing.
      powerManagement.resumeCommands = mkIf (placement.applied != [ ]) (
        "systemctl --no-block reload inferhost-apply.service\n"
      );

      # Before systemd reads sysctl.d, at boot and at the first switch: what is live now is the original. Without a
      # machine id (the first boot of an image) there is nothing to record: the host never was without its plan.
      system.activationScripts.inferhost-record = mkIf (lib.elem "cpu" placement.applied) {
        deps = [ "specialfs" ];
        text = ''
          if [ -s /etc/machine-id ]; then
            ${lib.getExe cfg.package} record --section cpu --plan ${cfg.planFile} >/dev/null || [ $? -eq 7 ]
          fi
        '';
      };

      assertions =
        lib.mapAttrsToList writerConflict otherWriters
        ++ lib.mapAttrsToList sysctlConflict sysctl
        ++ optional (governor != null) {
          assertion = config.powerManagement.cpuFreqGovernor == null;
          message =
            "powerManagement.cpuFreqGovernor: found ${toString config.powerManagement.cpuFreqGovernor}, the plan says "
            + "${governor}; remove it, or set inferhost_cpu_governor and plan again";
        };
      warnings = optional (
        cfg.openFirewall && publicPorts == [ ]
      ) "services.inferhost.openFirewall: every engine of the plan listens on loopback only; nothing is opened";
    }

    (mkIf cfg.driver.enable {
      # The switch of nixpkgs' nvidia module, headless or not; it starts no display server.
      services.xserver.videoDrivers = mkDefault [ "nvidia" ];
      # The driver's libraries are looked for where this puts them.
      hardware.graphics.enable = mkDefault true;
      hardware.nvidia = {
        # Over nixpkgs' own default, which is the open one for every driver of today. Where the plan says that either
        # runs the card: NVIDIA advises the open one from Turing on.
        open = overDefaults (driver.open == null || driver.open);
        nvidiaPersistenced = overDefaults driver.persistence;
        package = mkIf (driver.lastBranch != null) (
          overDefaults (branches."legacy_${driver.lastBranch}" or branches.stable)
        );
      };
      hardware.nvidia-container-toolkit.enable = mkIf (cfg.containerToolkit || placement.containers) (mkDefault true);

      assertions = [
        {
          assertion = nvidia.datacenter.enable || lib.elem "nvidia" config.services.xserver.videoDrivers;
          message = ''services.xserver.videoDrivers: without "nvidia" NixOS loads no NVIDIA driver, headless or not'';
        }
        {
          assertion = driver.open == null || nvidia.open == driver.open;
          message =
            "hardware.nvidia.open: the plan's cards need the "
            + (if driver.open then "open kernel module" else "proprietary kernel module");
        }
        {
          assertion = driverProblem == null;
          message = "hardware.nvidia.package: ${toString driverProblem}";
        }
      ];
      warnings =
        optional (!unfreeAllowed) (
          "nixpkgs.config.allowUnfree: NVIDIA's driver is unfree; allow it, "
          + "or name it in nixpkgs.config.allowUnfreePredicate"
        )
        ++ optional (driver.persistence && !nvidia.nvidiaPersistenced) (
          "hardware.nvidia.nvidiaPersistenced: off, though the plan keeps the driver loaded; "
          + "the host program asks the driver itself then"
        );
    })
  ]);
}
