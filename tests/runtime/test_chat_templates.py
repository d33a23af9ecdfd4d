"""Templates in the manner of well-known models, rendered and split into tokens as ``transformers`` does it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import transformers  # noqa: TID251 the oracle of these tests, and of nothing else
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from edgewise.errors import InputError
from edgewise.runtime.chat import ChatTemplate
from edgewise.runtime.tokenizer import Tokenizer

CONTROL = [
    *("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|begin|>", "<|header|>", "<|/header|>", "<|eot|>"),
    *("<start_of_turn>", "<end_of_turn>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
]
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
LINES = ["You are a helpful assistant.", "What is the capital of France?", "Paris – schön! 日本 👧", "user\nsystem"] * 3

CHATML = """
{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n' }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and
           not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- for tool_call in message.tool_calls %}{{- tool_call.arguments | tojson }}{%- endfor %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
THINKING = """
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string and
           not(message.content.startswith('<tool>') and message.content.endswith('</tool>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}
    {%- else %}{%- set content = '' %}{%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or (not loop.last and reasoning)) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' }}
            {{- content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""
HEADERS = """{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if not date_string is defined %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{#- This block extracts the system message, so we can slot it into the right place. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|header|>system<|/header|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|header|>' + message['role'] + '<|/header|>\\n\\n'+ message['content'] | trim + '<|eot|>' }}
    {%- elif message.tool_calls|length != 1 %}
        {{- raise_exception("This model only supports single tool-calls at once!") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|header|>assistant<|/header|>\\n\\n' }}
{%- endif %}
"""
INSTRUCTIONS = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if message.role == "user" or (message.role == "assistant" and message.tool_calls is not defined) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, roles must alternate user/assistant!") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined and (message == user_messages[-1]) %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported!") }}
    {%- endif %}
{%- endfor %}
"""
TURNS = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}"
    "{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
ROLES = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + "
    "eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}"
    "\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
BUILT = (
    "{% for message in messages %}{{'<|' + message['role'] + '|>' + '\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
DATED = """{# defaults #}
{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}
{%- set mode = "/think" if enable_thinking else "/no_think" -%}
{{- "<|im_start|>system\\n" -}}
{%- set today = strftime_now("%d %B %Y") -%}
{{- "Today Date: " ~ today ~ "\\n" -}}{{- "Mode: " + mode + "\\n\\n<|im_end|>\\n" -}}
{%- for message in messages -%}
    {%- set content = message.content if message.content is string else "" -%}
    {%- if message.role == "user" -%}
        {{ "<|im_start|>" + message.role + "\\n"  + content + "<|im_end|>\\n" }}
    {%- elif message.role == "assistant" -%}
        {% generation %}
        {{ "<|im_start|>assistant\\n"  + content.lstrip("\\n") + "<|im_end|>\\n" }}
        {% endgeneration %}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ "<|im_start|>assistant\\n" }}
{%- endif -%}
"""
TEMPLATES = {
    "chatml": (CHATML, "<|im_end|>"),
    "thinking": (THINKING, "<|im_end|>"),
    "headers": (HEADERS, "<|eot|>"),
    "instructions": (INSTRUCTIONS, "</s>"),
    "turns": (TURNS, "<end_of_turn>"),
    "roles": (ROLES, "</s>"),
    "built": (BUILT, "<|end|>"),
    "dated": (DATED, "<|im_end|>"),
}
SYSTEM = {"role": "system", "content": "You are a helpful assistant. "}
QUESTION = {"role": "user", "content": " What is the capital of France?\n"}
ANSWER = {"role": "assistant", "content": '<think>\nFrance … 日本\n</think>\n\nParis – "schön" 👧!'}
CHATS = {
    "one": [QUESTION],
    "system": [SYSTEM, QUESTION],
    "turns": [QUESTION, ANSWER, {"role": "user", "content": "a < b |> <|im_ {{ x }} [INST]"}],
    "answered": [SYSTEM, QUESTION, ANSWER],
    "two questions": [QUESTION, QUESTION],
}


def byte_level() -> Library:
    """As Llama 3, Qwen and SmolLM have them."""
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=CONTROL, initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(LINES, trainer)
    return library


def metaspace() -> Library:
    """As Llama 2, Mistral and Gemma have them: a space before the text, and one after every control token."""
    library = Library(models.BPE(unk_token="<unk>", byte_fallback=True))
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    library.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokens = ["<unk>", *CONTROL, *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=tokens[: 1 + len(CONTROL)], show_progress=False)
    library.train_from_iterator([line.replace(" ", "▁") for line in LINES], trainer)
    library.add_tokens(tokens[1 + len(CONTROL) :])
    return library


LIBRARIES = {"byte level": byte_level, "metaspace": metaspace}


@pytest.mark.parametrize("kind", LIBRARIES)
@pytest.mark.parametrize("name", TEMPLATES)
def test_text_and_tokens_are_those_of_the_library(name: str, kind: str) -> None:
    library = LIBRARIES[kind]()
    tokenizer = Tokenizer(library.to_str().encode())
    oracle = transformers.PreTrainedTokenizerFast(tokenizer_object=library, **VARIABLES)  # type: ignore[no-untyped-call]
    source, _ = TEMPLATES[name]
    template = ChatTemplate(source, control_tokens=tokenizer.special_tokens, variables=VARIABLES)
    rendered = 0
    for messages in CHATS.values():
        for prompt in (True, False):
            arguments: dict[str, Any] = {"chat_template": source, "add_generation_prompt": prompt}
            try:
                expected = oracle.apply_chat_template(messages, tokenize=False, **arguments)
            except Exception as refusal:
                with pytest.raises(InputError, match=f"refuses the messages: {re.escape(str(refusal))}"):
                    template.render(messages, add_generation_prompt=prompt)
                continue
            text = template.render(messages, add_generation_prompt=prompt)
            assert text == expected
            ids = oracle.apply_chat_template(messages, tokenize=True, return_dict=False, **arguments)
            assert tokenizer.encode_control(text) == ids
            rendered += 1
    assert rendered >= 4


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_end_of_a_turn(name: str) -> None:
    source, end = TEMPLATES[name]
    assert ChatTemplate(source, control_tokens=CONTROL, variables=VARIABLES).turn_end() == end


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content }}",
        "{{ messages[1].content }} <|im_end|>".replace("<|im_end|>", "Ende"),
        "{{ raise_exception('no') }}",
        "<|im_end|>",
    ],
    ids=["no answer", "text", "refused", "constant"],
)
def test_turns_without_an_end(source: str) -> None:
    assert ChatTemplate(source, control_tokens=CONTROL).turn_end() is None
