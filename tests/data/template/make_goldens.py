#!/usr/bin/env python3
"""Renders this folder's templates, and a list of expressions, with jinja2 set up as transformers sets it up.

Writes goldens.json and expressions.json beside itself. Needs jinja2 3.1.6; the tests need only the JSON.
"""
import copy
import datetime
import json
import os
import pathlib
import time

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent
os.environ["TZ"] = "UTC"
time.tzset()
NOW = datetime.datetime.fromtimestamp(1721999999)


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class Namespace(jinja2.utils.Namespace):
    def __init__(self, *args, **kwargs):
        if any(name.startswith("_") for name in dict(*args, **kwargs)):
            raise jinja2.exceptions.SecurityError("underscore")
        super().__init__(*args, **kwargs)


env = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception
env.globals["namespace"] = Namespace
env.globals["strftime_now"] = NOW.strftime


def render(source, variables):
    try:
        return {"text": env.from_string(source).render(**copy.deepcopy(variables))}
    except Exception as error:
        return {"raised": str(error)} if type(error) is jinja2.TemplateError else {"error": type(error).__name__}


WEATHER = {"type": "function", "function": {
    "name": "weather", "description": "Weather of a place\nnow", "return": {"type": "string"},
    "parameters": {"type": "object", "required": ["place"], "properties": {
        "place": {"type": "string", "description": "A \"city\" <b>é"},
        "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
        "at": {"type": ["string", "null"], "nullable": True},
        "box": {"type": "array", "items": {"type": "object", "properties": {"lo": {"type": "number", "minimum": 0.5}}}},
        "limit": {"oneOf": [{"type": "integer", "maximum": 18446744073709551615, "default": 1e20}, {"type": "null"}]}}}}}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "", "parameters": {"type": "object", "properties": {}}}}
SYSTEM = {"role": "system", "content": " Be brief.\n"}
ASK = {"role": "user", "content": "  How warm is it in Zürich? \U0001F600\n"}
REPLY = {"role": "assistant", "content": " 21.5\u00a0°C "}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {
    "name": "weather", "arguments": {"place": "Zürich", "box": [1, 2.0, None, True], "x": {"y": "</a>"}}}}]}
TEXT_CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "short", "type": "function", "function": {
    "name": "weather", "arguments": "{\"place\": \"A\"}"}}]}
RESULT = {"role": "tool", "content": "{\"t\": 21.5}", "tool_call_id": "abcdefghi", "name": "weather"}
CHATS = [
    [ASK], [SYSTEM, ASK], [SYSTEM, ASK, REPLY, ASK], [ASK, REPLY], [], [ASK, ASK], [SYSTEM],
    [SYSTEM, ASK, CALL, RESULT], [ASK, CALL, RESULT, RESULT, REPLY, ASK], [ASK, TEXT_CALL, RESULT],
    [{"role": "user", "content": [{"type": "text", "text": "see "}, {"type": "image"}, {"type": "text", "text": "this"}]}],
    [ASK, dict(REPLY, reasoning_content="\nhm\n", thinking="hm"), ASK, dict(CALL, reasoning_content="so", thinking="so")],
    [ASK, dict(REPLY, content="<think>\na\n</think>\n\nb")], [{"role": "judge", "content": "x"}], [RESULT],
    [{"role": "user", "content": "{{ 6 * 7 }} {% raw %} <|end|> \\n \u2028\t\x1f"}, {"role": "assistant", "content": None}],
]
SETTINGS = [
    {"tools": None, "add_generation_prompt": True},
    {"tools": [WEATHER, CLOCK], "add_generation_prompt": False, "documents": [{"title": "é", "text": "one\ntwo"}, {"title": "b", "text": ""}]},
    {"tools": [CLOCK], "tools_in_user_message": False, "builtin_tools": ["search", "weather", "interpreter"],
     "enable_thinking": False, "reasoning_effort": "high", "add_generation_prompt": True},
]

VARIABLES = {
    "i": 7, "n": -3, "f": 2.5, "big": 2**63 - 1, "s": "Hello, Wörld! \U0001F600", "sp": "  a b  c ", "l": [3, 1, 2],
    "w": ["b", "A", "c", "a"], "d": {"a": 1, "b": [1, 2], "items": 5}, "m": "l1\nl2\r\n\nl4", "none_": None,
    "rows": [{"n": "x", "v": 2}, {"n": "Y", "v": 1}, {"n": "x", "v": None}], "h": "<a href='x'>&",
}
EXPRESSIONS = [json.loads(line) for line in (HERE / "expressions.txt").read_text().split("\n") if line]

goldens = []
for path in sorted(HERE.glob("*.jinja")):
    source = path.read_text()
    for chat in CHATS:
        for setting in SETTINGS:
            variables = {"messages": chat, "bos_token": "<s>", "eos_token": "</s>", **setting}
            goldens.append({"template": path.name, "chat": CHATS.index(chat), "setting": SETTINGS.index(setting),
                            **render(source, variables)})
(HERE / "goldens.json").write_text(json.dumps(
    {"now": 1721999999, "chats": CHATS, "settings": SETTINGS, "cases": goldens}, ensure_ascii=False, indent=0) + "\n")
(HERE / "expressions.json").write_text(json.dumps(
    {"variables": VARIABLES, "cases": [{"source": line, **render(line, VARIABLES)} for line in EXPRESSIONS]},
    ensure_ascii=False, indent=0) + "\n")
