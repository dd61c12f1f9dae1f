# T3: a NixOS machine with the simulated GPU switches to its plan, proves it, and gives everything back when it switches
# away. The engine is a stub that answers with a token; the library and its state are those of tests/simulator.
{ pkgs, lib, ... }:
let
  simulator = pkgs.stdenv.mkDerivation {
    name = "inferhost-simulator";
    src = ../simulator;
    installPhase = ''
      install -D build/libnvidia-ml.so.1 $out/lib/libnvidia-ml.so.1
      install -D build/inferhost-sim $out/bin/inferhost-sim
      cp -r personalities $out/
    '';
  };
  answer = pkgs.writeText "answer.py" ''
    import http.server, json

    class Engine(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"usage": {"completion_tokens": 8}}).encode())

    http.server.HTTPServer(("127.0.0.1", 30000), Engine).serve_forever()
  '';
  engine = pkgs.writeShellScriptBin "llama-server" "exec ${pkgs.python3}/bin/python3 ${answer}";
  plan = lib.importJSON ../golden/sandbox-gb200/plan.json;
  wanted = toString ((lib.head plan.gpus).power_limit_w * 1000);
in
{
  name = "inferhost";

  nodes.machine = {
    imports = [ ../../nix/module.nix ];
    services.inferhost = {
      planFile = ../golden/sandbox-gb200/plan.json;
      host = "sandbox-gb200";
      instances.main.package = engine;
    };
    specialisation.planned.configuration.services.inferhost.enable = true;
    environment.systemPackages = [ simulator ];
    systemd.tmpfiles.rules = [ "L+ /run/opengl-driver/lib/libnvidia-ml.so.1 - - - - ${simulator}/lib/libnvidia-ml.so.1" ];
    systemd.services.simulated-gpu = {
      wantedBy = [ "multi-user.target" ];
      before = [ "inferhost-apply.service" ];
      serviceConfig.Type = "oneshot";
      serviceConfig.RemainAfterExit = true;
      script = ''
        test -e /var/lib/inferhost-sim/personality ||
          ${simulator}/bin/inferhost-sim init ${simulator}/personalities/rtx-pro-6000-blackwell-workstation.txt
        ${simulator}/bin/inferhost-sim reload
        ${simulator}/bin/inferhost-sim set power_limit_mw 480000
      '';
    };
  };

  testScript = ''
    def limit():
        return machine.succeed("inferhost-sim dump | tr -d ' ' | grep -o 'power_limit_mw\":[0-9]*'").split(":")[1].strip()

    machine.wait_for_unit("multi-user.target")
    assert limit() == "480000", limit()
    swappiness = machine.succeed("cat /proc/sys/vm/swappiness")

    machine.succeed("/run/booted-system/specialisation/planned/bin/switch-to-configuration test")
    machine.succeed("systemctl is-active inferhost-apply.service")
    assert limit() == "${wanted}", limit()
    machine.succeed("inferhost gate --wait")
    machine.succeed("inferhost verify --section gpu --section cpu")
    machine.succeed("test $(cat /proc/sys/vm/swappiness) = ${plan.sysctl."vm.swappiness"}")

    machine.succeed("/run/booted-system/bin/switch-to-configuration test")
    assert limit() == "480000", limit()
    assert machine.succeed("cat /proc/sys/vm/swappiness") == swappiness
    machine.fail("test -e /etc/inferhost/plan.json")
  '';
}
