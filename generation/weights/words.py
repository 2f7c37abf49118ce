"""The words of toy town's prompts as tokens. Imports nothing but tokenizers, so that it can be asked in any process."""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel

WORD_END = "</w>"


class Vocabulary(NamedTuple):
    """What a CLIP tokenizer is made of: the number of each token, and the merges that build words from letters."""

    numbers: dict[str, int]
    merges: list[tuple[str, str]]


def learn_vocabulary(texts: Sequence[str]) -> Vocabulary:
    """A vocabulary in which every word of `texts` is one token: the same for the same texts, in every process.

    The merges are learned on all words together, since merges that are made word by word collide. Of merges that are
    equally frequent the trainer takes the one whose letters have lower numbers. It numbers the letters that end a word
    as it meets them, in hash order, unless they are given: so all are given.
    """
    words = sorted({word for text in texts for word in re.findall(r"[a-z]+|[^\sa-z]", text.lower())})
    alphabet = sorted(ByteLevel.alphabet())
    letters = alphabet + [letter + WORD_END for letter in alphabet]
    learned = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    trainer = trainers.BpeTrainer(
        vocab_size=100_000, min_frequency=1, end_of_word_suffix=WORD_END, show_progress=False, special_tokens=letters
    )
    learned.train_from_iterator(words, trainer)
    merges = [(first, second) for first, second in json.loads(learned.to_str())["model"]["merges"]]
    tokens = [*dict.fromkeys(letters + ["".join(merge) for merge in merges]), "<|startoftext|>", "<|endoftext|>"]
    return Vocabulary({token: number for number, token in enumerate(tokens)}, merges)
