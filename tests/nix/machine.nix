# T2: the machine of vm.nix with and without its plan, as a plain configuration, and the script that drives it.
{ nixpkgs }:
let
  lib = import (nixpkgs + "/lib");
  test = import ./vm.nix {
    inherit lib;
    pkgs = import nixpkgs { localSystem.system = "x86_64-linux"; };
  };
  machine =
    (import (nixpkgs + "/nixos/lib/eval-config.nix") {
      inherit lib;
      system = "x86_64-linux";
      modules = [
        test.nodes.machine
        {
          boot.loader.grub.enable = false;
          fileSystems."/".device = "/dev/vda";
          networking.hostName = "machine";
        }
      ];
    }).config;
in
{
  before = machine.system.build.toplevel.drvPath;
  planned = machine.specialisation.planned.configuration.system.build.toplevel.drvPath;
  script = test.testScript;
}
