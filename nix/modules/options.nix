# What a NixOS configuration may say about Inferhost: where the plan is, and how it is placed. Tuning is not said here:
# it is changed in the wish and planned again, so that every host of a fleet gets the same values for the same wish.
{ config, lib, pkgs, ... }:
let
  planLib = import ../lib/plan.nix;
  cfg = config.services.inferhost;
  inherit (lib) literalExpression mkEnableOption mkOption types;

  # The roles' option list as Nix types: the names and defaults of a wish have one home for Ansible and NixOS.
  wishType =
    option:
    let
      text = if option ? choices then types.enum option.choices else types.coercedTo types.int toString types.str;
      byKind = {
        str = text;
        path = types.str; # a path of the host: a Nix path would be copied into the store
        int = types.int;
        bool = types.bool;
        dict = types.attrsOf types.anything;
        list = types.listOf text;
      };
    in
    types.nullOr (byKind.${option.type} or (throw "nix/modules/options.nix: no Nix type for ${option.type}"));

  wishOption =
    _name: option:
    mkOption {
      type = wishType option;
      default = null;
      description = "${option.description} Default: `${builtins.toJSON (option.default or "required")}`.";
    };

  instance.options = {
    package = mkOption {
      type = types.nullOr types.package;
      default = null;
      example = literalExpression "pkgs.llama-cpp";
      description = ''
        The engine. The plan names its executable; a link there leads to the file of that name in this package.
        Without a package the executable has to be on the host already.
      '';
    };
    environmentFiles = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "/run/secrets/inferhost-main" ];
      description = "Files of `NAME=value` lines for the engine's unit: the place of secrets, never in the store.";
    };
  };
in
{
  options.services.inferhost = {
    enable = mkEnableOption "placing the Inferhost plan of this host";

    planFile = mkOption {
      type = types.path;
      example = literalExpression "./plan.json";
      description = "The plan, exactly as `inferhost plan --format json` prints it.";
    };

    placement = mkOption {
      type = types.attrsOf types.anything;
      default = planLib.placement (planLib.read cfg.planFile);
      defaultText = literalExpression "what nix/lib/plan.nix takes from planFile";
      readOnly = true;
      internal = true;
      description = "What NixOS takes from the plan, read and checked.";
    };

    wish = mkOption {
      type = types.nullOr (types.submodule { options = lib.mapAttrs wishOption planLib.wishOptions; });
      default = null;
      description = ''
        The wish that the plan was made from, if it is kept in Nix. A plan that was made from another one is refused.
        Write it out for the planner as `host_vars/HOST/wish.json`:
        `nix eval --json .#nixosConfigurations.HOST.config.services.inferhost.wish`.
      '';
      apply = wish: if wish == null then null else lib.filterAttrs (_: value: value != null) wish;
    };

    host = mkOption {
      type = types.str;
      default = config.networking.hostName;
      defaultText = literalExpression "config.networking.hostName";
      description = "This host's name in the inventory; the plan of another host is refused.";
    };

    package = mkOption {
      type = types.package;
      default = pkgs.callPackage ../package.nix { };
      defaultText = literalExpression "the host program of this checkout";
      description = "The host program: `inferhost apply`, `verify`, `gate`, `sample`, `status`.";
    };

    instances = mkOption {
      type = types.attrsOf (types.submodule instance);
      default = { };
      description = "What only this host knows about an engine instance of the plan.";
    };

    createUsers = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Make the system users that the plan runs engines as. Turn it off where such a user is declared already.
      '';
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Open the ports of engines that listen on more than loopback. They answer unauthenticated HTTP.";
    };

    driver.enable = mkOption {
      type = types.bool;
      default = cfg.placement.driver.wanted;
      defaultText = literalExpression "the plan has a real card and manages something";
      description = "Set `hardware.nvidia` and `hardware.graphics` for the cards of the plan.";
    };

    containerToolkit = mkOption {
      type = types.bool;
      default = false;
      description = "Make the cards available to containers (CDI) with NVIDIA's container toolkit.";
    };
  };
}
