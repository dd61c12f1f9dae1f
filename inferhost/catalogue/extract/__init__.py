"""Reads what an engine takes from the engine's own files: flags and environment variables, per version.

`python -m inferhost.catalogue.extract ENGINE SOURCE --version V` writes the table of one engine version. Nothing of
the engine is imported or run: Python is read as syntax, llama-server by its `--help` text, C++ and Rust by the calls
that read the environment. One thin reader per engine; what nobody can read there (what a flag was called before,
which flags carry secrets) stands in `engine_notes.json` and is merged.
"""
