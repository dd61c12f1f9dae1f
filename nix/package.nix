# The host program: the same zipapp that Ansible ships, started with the driver's libraries in sight.
{
  lib,
  runCommand,
  makeWrapper,
  python3,
  fetchPypi,
}:
let
  inherit (builtins) elemAt head match readFile;
  # One home for the version of pynvml: the lock that the Python side installs from. Its first hash is the wheel's;
  # another one would fail the build. Split by lines: `match` over a long text exhausts the evaluator's stack.
  lock = lib.splitString "\n" (readFile ../requirements.lock);
  entry = lib.lists.findFirstIndex (lib.hasPrefix "nvidia-ml-py==") null lock;
  pynvml = fetchPypi {
    pname = "nvidia_ml_py";
    version = head (match "nvidia-ml-py==([0-9.]+).*" (elemAt lock entry));
    format = "wheel";
    dist = "py3";
    python = "py3";
    sha256 = head (match ".*--hash=sha256:([0-9a-f]+).*" (elemAt lock (entry + 1)));
  };
  version = head (match ".*\n__version__ = \"([^\"]+)\".*" (readFile ../inferhost/__init__.py));
in
runCommand "inferhost-${version}"
  {
    inherit version;
    pname = "inferhost";
    nativeBuildInputs = [ makeWrapper python3 ];
    meta = {
      description = "Applies, proves and takes back the settings of a GPU inference host";
      license = lib.licenses.asl20;
      mainProgram = "inferhost";
      platforms = lib.platforms.linux;
    };
  }
  ''
    mkdir -p "$out"/bin "$out"/share/inferhost sources
    cp -r ${../inferhost} sources/inferhost
    python3 -m zipfile -e ${pynvml} sources
    cd sources
    python3 -c 'import pathlib, sys; from inferhost.host.zipapp_build import build; build(pathlib.Path(sys.argv[1]))' \
      "$out"/share/inferhost/inferhost.pyz
    makeWrapper ${python3}/bin/python3 "$out"/bin/inferhost \
      --add-flags "$out"/share/inferhost/inferhost.pyz \
      --prefix LD_LIBRARY_PATH : /run/opengl-driver/lib \
      --suffix PATH : /run/current-system/sw/bin
  ''
