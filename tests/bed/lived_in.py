"""Turns a fresh sandbox host into one that somebody set up by hand, as the guides teach it."""

from tests.bed.playbook import NAME, bed

UNIT = "llm.service"
FILES = {
    f"/etc/systemd/system/{UNIT}": """[Unit]
Description=my model
[Service]
User=operator
Environment=CUDA_LAUNCH_BLOCKING=0 LLAMA_API_KEY=sk-very-secret
ExecStart=/home/operator/start_llm.sh
[Install]
WantedBy=multi-user.target
""",
    "/home/operator/start_llm.sh": """#!/bin/bash
export CUDA_CACHE_MAXSIZE=2147483648
exec llama-server --model /srv/models/tiny-random.gguf --host 127.0.0.1 --port 30000 \\
  --ctx-size 2048 --parallel 2 --n-gpu-layers 99
""",
    "/usr/local/sbin/tune-gpu": "#!/bin/bash\nnvidia-smi -pm 1\nnvidia-smi -pl 480\n",
    "/etc/rc.local": "#!/bin/sh\n/usr/local/sbin/tune-gpu\nexit 0\n",
    "/home/operator/compose.yml": """services:
  chat:
    image: ghcr.io/ggml-org/llama.cpp:server-cuda
    command: ["-m", "/models/tiny-random.gguf", "--port", "8080"]
    ports: ["127.0.0.1:8081:8080"]
    volumes: ["/srv/models:/models"]
    environment:
      - CUDA_TENSOR_CORES=1
""",
}


def set_up() -> None:
    """Files, power limit and persistence as the scripts leave them, and the service running."""
    for path, text in FILES.items():
        mode = "755" if text.startswith("#!") else "644"
        bed("exec", NAME, "sh", "-c", f"cat > {path} <<'END'\n{text}END\nchmod {mode} {path}")
    bed("exec", NAME, "inferhost-sim", "set", "persistence", "1")
    bed("exec", NAME, "inferhost-sim", "set", "power_limit_mw", "480000")
    bed("exec", NAME, "systemctl", "enable", "--quiet", "--now", UNIT)
    answers = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:30000/health')"
    bed("exec", NAME, "sh", "-c", f'until python3 -c "{answers}" 2>/dev/null; do sleep 0.3; done')
