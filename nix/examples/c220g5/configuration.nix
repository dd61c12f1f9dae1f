# A Cisco C220 M5 with a Tesla P4, serving with llama.cpp out of nixpkgs. Pascal takes the proprietary kernel module
# only, and branch 580 of the driver is its last: both come from the plan.
{ pkgs, ... }:
{
  imports = [ ../../module.nix ];

  networking.hostName = "c220g5";
  boot.loader.systemd-boot.enable = true;
  fileSystems."/" = {
    device = "/dev/disk/by-label/nixos";
    fsType = "ext4";
  };
  nixpkgs.config.allowUnfree = true; # NVIDIA's driver and CUDA

  services.inferhost = {
    enable = true;
    # Yours lies beside your configuration: `inferhost plan --inventory ... --host c220g5 --format json > plan.json`.
    planFile = ../../../tests/golden/c220g5/plan.json;
    # The plan was made for the version that it names; check the one in nixpkgs with `llama-server --version`.
    instances.main.package = pkgs.llama-cpp.override { cudaSupport = true; };
  };

  system.stateVersion = "25.11";
}
