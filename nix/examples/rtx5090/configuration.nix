# A workstation with an RTX 5090 and a display on another card, serving with vLLM; containers see the card as well. A
# generated hardware-configuration.nix often sets a governor as a default: the plan's owner wins over defaults.
{ lib, ... }:
{
  imports = [ ../../module.nix ];

  networking.hostName = "rtx5090";
  boot.loader.systemd-boot.enable = true;
  fileSystems."/" = {
    device = "/dev/disk/by-label/nixos";
    fsType = "ext4";
  };
  powerManagement.cpuFreqGovernor = lib.mkDefault "powersave";
  nixpkgs.config.allowUnfree = true; # NVIDIA's driver

  services.inferhost = {
    enable = true;
    # Yours lies beside your configuration: `inferhost plan --inventory ... --host rtx5090 --format json > plan.json`.
    planFile = ../../../tests/golden/rtx5090/plan.json;
    containerToolkit = true;
  };

  programs.nix-ld.enable = true;
  system.stateVersion = "25.11";
}
