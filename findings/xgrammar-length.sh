#!/usr/bin/env bash
# In xgrammar a JSON string with a length limit can hold no escapes, but raw control characters.
#
# Version: xgrammar 0.2.9 with apache-tvm-ffi 0.1.15.post2 (PyPI); xgrammar 0.2.8 does the same. Needs
# x86-64 Linux and Python 3.11 or newer. The part of xgrammar that makes and applies grammars needs no
# torch, and is loaded without the rest.
#
# Behaviour: of {"type": "string"} the grammar allows what JSON allows. With "minLength" or "maxLength" the
# rule for a character becomes [^"\\\r\n]: every backslash is forbidden, and with it the quotation mark, the
# line break, the backslash itself and \u00e9. At the same time a raw tab is allowed, which JSON forbids:
# Python's json.loads refuses such a text.
#
# Expected: a limit of the length changes how many characters a string may have, not which. What a grammar
# made of a schema allows is JSON.
#
# Why it matters: servers of language models (vLLM, SGLang) use xgrammar for "response_format" with a
# schema. With a limit, a model cannot write a title in quotation marks or a second paragraph, is pushed to
# other words without any error, and can write what no parser takes. Whoever wants both must leave limits
# out of the schema and check the length afterwards.
#
# Seen (allowed by the grammar: without limit, with "maxLength": 80; whether Python's json reads it):
#   {"title": "Dawn"}: True True, json True
#   {"title": "The \"Dawn\""}: True False, json True
#   {"title": "a\nb"}: True False, json True
#   {"title": "a\\b"}: True False, json True
#   {"title": "caf\u00e9"}: True False, json True
#   {"title": "a<raw tab>b"}: False True, json False

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

python_with xgrammar==0.2.9 apache-tvm-ffi==0.1.15.post2 pydantic==2.14.4 pydantic_core==2.50.5 \
  typing_extensions==4.16.0 typing-inspection==0.4.5 annotated-types==0.8.0 numpy==2.4.6
cat >ask.py <<'PYTHON'
import importlib.util
import json
import sys
import types

# The package without its own first module, which would load torch.
package = types.ModuleType("xgrammar")
package.__path__ = list(importlib.util.find_spec("xgrammar").submodule_search_locations)
sys.modules["xgrammar"] = package
import xgrammar.load_binding
from xgrammar.base import _core
from xgrammar.grammar import Grammar

COMPILER = _core.GrammarCompiler(_core.TokenizerInfo([], 0, None, None, False), 1, False, -1, False)


def allows(string, text):
    schema = {"type": "object", "properties": {"title": string}, "required": ["title"]}
    grammar = Grammar.from_json_schema(json.dumps({**schema, "additionalProperties": False}))
    compiled = COMPILER.compile_grammar_ebnf(grammar._handle)
    matcher = _core.GrammarMatcher(compiled, None, True, -1, None)
    return bool(matcher.accept_string(text, False)) and bool(matcher.is_terminated())


def reads(text):
    try:
        json.loads(text)
        return True
    except json.JSONDecodeError:
        return False


texts = [json.dumps({"title": title}) for title in ["Dawn", 'The "Dawn"', "a\nb", "a\\b", "café"]]
for text in [*texts, '{"title": "a\tb"}']:
    plain = allows({"type": "string"}, text)
    limited = allows({"type": "string", "maxLength": 80}, text)
    print(f"{text}: {plain} {limited}, json {reads(text)}".replace("\t", "<raw tab>"))
PYTHON
"$PYTHON" ask.py | expect '{"title": "Dawn"}: True True, json True
{"title": "The \"Dawn\""}: True False, json True
{"title": "a\nb"}: True False, json True
{"title": "a\\b"}: True False, json True
{"title": "caf\u00e9"}: True False, json True
{"title": "a<raw tab>b"}: False True, json False'
