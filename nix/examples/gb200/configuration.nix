# An RTX PRO 6000 Blackwell in an ESXi guest, serving with SGLang. The engine lies in /opt, in a virtual environment of
# its own, because nixpkgs has no module for it; nix-ld runs its foreign binaries.
{
  imports = [ ../../module.nix ];

  networking.hostName = "gb200";
  boot.loader.systemd-boot.enable = true;
  fileSystems."/" = {
    device = "/dev/disk/by-label/nixos";
    fsType = "ext4";
  };
  nixpkgs.config.allowUnfree = true; # NVIDIA's driver

  services.inferhost = {
    enable = true;
    # Yours lies beside your configuration: `inferhost plan --inventory ... --host gb200 --format json > plan.json`.
    planFile = ../../../tests/golden/gb200/plan.json;
    # Made by your secrets tool, readable by root only. systemd reads it before it drops privileges.
    instances.main.environmentFiles = [ "/run/secrets/inferhost-main" ];
  };

  programs.nix-ld.enable = true;
  system.stateVersion = "25.11";
}
