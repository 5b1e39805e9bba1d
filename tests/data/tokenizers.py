"""Small real tokenizers and chat templates, each with a habit that breaks naive tokenisation."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

SPECIAL = [
    "<unk>",
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|header|>",
    "<|/header|>",
    "<|eot|>",
    "<|eom|>",
    "<bos>",
    "<turn>",
    "<end_of_turn>",
    "<|end|>",
]
CORPUS = [
    "Question: what is the colour of the sky?\nAnswer: the sky is blue, and the sea is blue too.",
    "User: hello there, tell me a story.\nAssistant: once upon a time there was a little girl.",
    "Janet eats three eggs and sells the rest at the market: 9 * 2 = 18 dollars.",
    "\n\nHuman: how are you?\n\nAssistant: I am fine, thank you.",
    "system user assistant tool: you are a helpful assistant.",
    "<think>\n let me think \n</think>\n\n the answer is 4",
] * 20


def _wrap(backend: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", **special)


def _bpe(*, split_words: bool = True, vocab_size: int = 500) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split_words)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return backend


def _adding(template: str) -> Tokenizer:
    backend = _bpe()
    ids = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    backend.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=template, special_tokens=ids),
        ]
    )
    return backend


def without_bos() -> PreTrainedTokenizerFast:
    return _wrap(_bpe())


def bos_is_eos() -> PreTrainedTokenizerFast:
    """As in GPT-2."""
    return _wrap(_bpe(), bos_token="</s>")


def adds_bos() -> PreTrainedTokenizerFast:
    return _wrap(_adding("<s> $A"), bos_token="<s>")


def adds_bos_and_eos() -> PreTrainedTokenizerFast:
    return _wrap(_adding("<s> $A </s>"), bos_token="<s>")


def merges_across_words() -> PreTrainedTokenizerFast:
    """No split into words before merging: the end of a prompt merges with the beginning of its answer."""
    return _wrap(_bpe(split_words=False, vocab_size=700), bos_token="<s>")


def prefixes_space() -> PreTrainedTokenizerFast:
    """A Unigram model that puts a blank before every text, and before all that follows a special token."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    backend.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(
            vocab_size=150,
            special_tokens=SPECIAL,
            unk_token="<unk>",
            show_progress=False,
        ),
    )
    return _wrap(backend, bos_token="<s>", unk_token="<unk>")


TOKENIZERS = {
    make.__name__: make
    for make in (
        without_bos,
        bos_is_eos,
        adds_bos,
        adds_bos_and_eos,
        merges_across_words,
        prefixes_space,
    )
}

_CHATML = (
    "{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor -%}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif -%}"
)
_SYSTEM = "<|im_start|>system\nyou are helpful<|im_end|>\n"
_DEFAULT_SYSTEM = "{%- if messages[0].role != 'system' %}" + _SYSTEM + "{% endif -%}" + _CHATML
_LLAMA3 = (
    "<s>{%- for m in messages %}<|header|>{{ m.role }}<|/header|>\n\n"
    "{{ m.content | trim }}<|eot|>{% endfor -%}"
    "{%- if add_generation_prompt %}<|header|>assistant<|/header|>\n\n{% endif -%}"
)
_GEMMA = (
    "<bos>{%- for m in messages %}<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor -%}"
    "{%- if add_generation_prompt %}<turn>model\n{% endif -%}"
)
_THINK = _CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
_PLAIN = (
    "{%- for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor -%}"
    "{%- if add_generation_prompt %}assistant:{% endif -%}"
)
_STRIPPING = _CHATML.replace("m.content }}", "m.content | trim }}")
# the end of the text follows the end of the last turn unless an answer is asked for
_PHI = (
    "{%- for m in messages %}<turn>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor -%}"
    "{%- if add_generation_prompt %}<turn>assistant\n{% else %}</s>{% endif -%}"
)
_TOOLS = (
    "{%- if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif -%}"
    "{%- for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.tool_calls | tojson if m.tool_calls else m.content }}"
    "{{ '<|eom|>' if m.tool_calls else '<|im_end|>' }}\n{% endfor -%}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif -%}"
)
# thoughts are shown in the last turn only
REWRITING = (
    "{%- for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content if loop.last else m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor -%}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif -%}"
)
# what a tool says is shown until it is answered
FORGETTING = (
    "{%- for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content if loop.last or m.role != 'tool' else '' }}<|im_end|>\n{% endfor -%}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif -%}"
)
# tool calls are not shown
SKIPPING = "{%- for m in messages if m.content %}{{ m.role }}: {{ m.content }}<|end|>\n{% endfor -%}"
# tool calls have no end
_END_OF_TEXT = "{{ '' if m.tool_calls else '<|end|>' }}"
UNENDED = "{%- for m in messages %}<turn>{{ m.role }}\n{{ m.content }}" + _END_OF_TEXT + "\n{% endfor -%}"

# name -> the template, and the text of the token that ends a turn (None: our EOS is appended)
TEMPLATES: dict[str, tuple[str, str | None]] = {
    "chatml": (_CHATML, "<|im_end|>"),
    "default_system": (_DEFAULT_SYSTEM, "<|im_end|>"),
    "llama3": (_LLAMA3, "<|eot|>"),
    "gemma": (_GEMMA, "<end_of_turn>"),
    "think": (_THINK, "<|im_end|>"),
    "plain": (_PLAIN, None),
    "stripping": (_STRIPPING, "<|im_end|>"),
    "phi": (_PHI, "<|end|>"),
    "tools": (_TOOLS, "<|im_end|>"),
}


@cache
def tokenizer(name: str, template: str | None = None) -> PreTrainedTokenizerBase:
    """One tokenizer by name, with a chat template by name or as given; do not change it."""
    made = TOKENIZERS[name]()
    if template is not None:
        made.chat_template = TEMPLATES[template][0] if template in TEMPLATES else template
    return made
