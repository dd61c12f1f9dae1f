# T1: what nix/package.nix would fetch and run, with stand-ins for the tools of nixpkgs.
{ libPath }:
import ../../nix/package.nix {
  lib = import libPath;
  runCommand = name: attributes: script: { inherit name script; inherit (attributes) meta; };
  makeWrapper = null;
  python3 = "PYTHON";
  fetchPypi = arguments: "WHEEL-${arguments.pname}-${arguments.version}-${arguments.sha256}";
}
