"""Asks the engine of this host for a few tokens; runs on the host, standard library only."""

import json
import urllib.request

REQUEST = {"prompt": "the people there", "max_tokens": 48, "temperature": 0.8, "seed": 1}


def main() -> None:
    request = urllib.request.Request(
        "http://127.0.0.1:30000/v1/completions", json.dumps(REQUEST).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    print(f"{REQUEST['prompt']}{answer['choices'][0]['text']}")
    speed = answer["timings"]["predicted_per_second"]
    print(f"\n{answer['usage']['completion_tokens']} tokens at {speed:.0f} tok/s by {answer['model']}, on the CPU.")
    print("The model is half a megabyte of random numbers: neither the words nor the speed say anything.")


if __name__ == "__main__":
    main()
