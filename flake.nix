{
  description = "GPU inference hosts: one plan, placed, proven by observation, and put back";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      forEach = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ];
      pkgsOf = system: nixpkgs.legacyPackages.${system};
      example =
        system: name:
        lib.nameValuePair "example-${name}"
          (lib.nixosSystem {
            inherit system;
            modules = [ (./nix/examples + "/${name}/configuration.nix") ];
          }).config.system.build.toplevel;
    in
    {
      nixosModules.default = ./nix/module.nix;
      # For hosts that are not NixOS, e.g. under system-manager: plan, host program, files, units and users.
      nixosModules.service = ./nix/modules/service.nix;

      lib = import ./nix/lib/plan.nix;

      packages = forEach (system: {
        default = self.packages.${system}.inferhost;
        inferhost = (pkgsOf system).callPackage ./nix/package.nix { };
      });

      checks = forEach (
        system:
        {
          inherit (self.packages.${system}) inferhost;
          vm = (pkgsOf system).testers.runNixOSTest ./tests/nix/vm.nix;
        }
        // lib.listToAttrs (map (example system) (lib.attrNames (builtins.readDir ./nix/examples)))
      );

      formatter = forEach (system: (pkgsOf system).nixfmt-tree);
    };
}
