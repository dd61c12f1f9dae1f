# NixOS: the host that `site.yml` makes elsewhere, from the same plan.
{
  imports = [
    ./modules/service.nix
    ./modules/host.nix
  ];
}
