"""What an engine's own parser makes of command lines. Runs in the engine's own environment, never in ours.

`engine_parsers.py ENGINE [SOURCE]`: reads a JSON list of command lines (without the program) from standard input, and
prints for each the complaint of the parser, or the value of every flag that the line has. Nothing of the engine is
started, and no card is asked for.
"""

import argparse
import contextlib
import io
import json
import sys


def vllm():
    from vllm.entrypoints.common.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return make_arg_parser(FlexibleArgumentParser())


def sglang():
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    return parser


def tabbyapi():
    from common.args import init_argparser

    return init_argparser()


def sfllm():
    from server_args import ServerArgs

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    # As python/sfllm/serving/app.py does, which starts the engine at its import.
    parser.add_argument("--port", type=int, default=8081)
    return parser


def after_parsing(engine, parser, found):
    """What the engine itself checks of the values before it looks at a card."""
    if engine == "tabbyapi":
        from common.args import convert_args_to_dict
        from common.config_models import TabbyConfigModel

        given = {k: v for k, v in convert_args_to_dict(found, parser).items() if k in TabbyConfigModel.model_fields}
        model = TabbyConfigModel.model_validate(given).model_dump()
        for section, names in given.items():
            vars(found).update({name: model[section][name] for name in names})


def judged(engine, parser, words):
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            found = parser.parse_args(words)
            after_parsing(engine, parser, found)
    except SystemExit:
        return {"error": said.getvalue().strip().splitlines()[-1]}
    except ValueError as error:
        return {"error": str(error)}
    names = {
        word: parser._option_string_actions[word].dest for word in words if word in parser._option_string_actions
    }
    return {"values": {name: getattr(found, dest) for name, dest in names.items()}}


if __name__ == "__main__":
    ENGINE = sys.argv[1]
    sys.path[:0] = sys.argv[2:]
    with contextlib.redirect_stdout(sys.stderr):
        PARSER = {"vllm": vllm, "sglang": sglang, "tabbyapi": tabbyapi, "sfllm": sfllm}[ENGINE]()
    print(json.dumps([judged(ENGINE, PARSER, words) for words in json.load(sys.stdin)], default=str))
