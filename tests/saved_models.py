"""Small models saved as folders, as a user has them: config, safetensors, tokenizer. And small data to go with them."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest
import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace, WhitespaceSplit
from tokenizers.processors import TemplateProcessing

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(20)), "good", "bad", "so", "film"]


def save_bert(folder: Path, *, pooler: bool = True) -> Path:
    """BERT of width 16 with a word tokenizer; without its pooler, as some checkpoints are."""
    torch.manual_seed(0)
    config = hf.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=64,  # room for virtual tokens before the longest text
    )
    model = hf.BertModel(config, add_pooling_layer=pooler)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    model.save_pretrained(folder)
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    hf.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=32,
    ).save_pretrained(folder)
    return folder


CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|> ' + m.content + ' <|end|> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|> ' }}{% endif %}"
)


def _word_tokenizer(folder: Path, *, ends: bool) -> int:
    """A tokenizer of words with a chat template; with ``ends``, every text ends with its end token, as T5's do."""
    special = ["[PAD]", "[UNK]", "[EOS]", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    names = [*special, *(f"w{i}" for i in range(20)), *map(str, range(10)), "Question:", "Answer:", "is"]
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(names)}, unk_token="[UNK]"))
    words.pre_tokenizer = WhitespaceSplit()
    if ends:
        words.post_processor = TemplateProcessing(single="$A [EOS]", special_tokens=[("[EOS]", 2)])
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        eos_token="[EOS]",
        extra_special_tokens=special[3:],
        model_max_length=64,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return len(names)


def save_decoder(folder: Path) -> Path:
    """A Llama of width 16 with a word tokenizer and a chat template."""
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=_word_tokenizer(folder, ends=False),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    hf.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def save_encoder_decoder(folder: Path) -> Path:
    """A T5 of width 16 with a word tokenizer."""
    config = hf.T5Config(
        vocab_size=_word_tokenizer(folder, ends=True),
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_heads=2,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
        tie_word_embeddings=False,
    )
    model = hf.T5ForConditionalGeneration(config)
    torch.manual_seed(1)  # this seed and scale answer prompts differently
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


def save_timm(folder: Path) -> Path:
    """A ViT of timm with a fused qkv, as its Hub folders are."""
    torch.manual_seed(0)
    config = hf.TimmWrapperConfig(
        architecture="vit_tiny_patch16_224",
        model_args={"img_size": 32, "embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 16},
        num_labels=3,
        pretrained_cfg={"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "classifier": "head"},
    )
    hf.TimmWrapperForImageClassification(config).save_pretrained(folder)
    return folder


def save_reviews(path: Path, rows: int = 60, seed: int = 0) -> Path:
    """Rows of random words with "good" or "bad" among them, which is the label; a grade from 0 to 1 beside it."""
    draw = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "grade"])
        for i in range(rows):
            word = ("bad", "good")[i % 2]
            text = [f"w{draw.randrange(20)}" for _ in range(draw.randrange(2, 9))]
            text.insert(draw.randrange(len(text) + 1), word)
            writer.writerow([" ".join(text), word, f"{i % 2 + draw.random() / 10:.3f}"])
    return path


def save_images(folder: Path, per_class: int = 12) -> Path:
    """Two folders of images, dark and bright, of changing sizes."""
    for k, name in enumerate(("bright", "dark")):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            Image.new("RGB", (20 + i, 30), (230 - 200 * k + i,) * 3).save(folder / name / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("models") / "small-bert")


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder(tmp_path_factory.mktemp("models") / "small-llama")


@pytest.fixture(scope="session")
def encoder_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder_decoder(tmp_path_factory.mktemp("models") / "small-t5")


@pytest.fixture(scope="session")
def timm_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("timm")
    return save_timm(tmp_path_factory.mktemp("models") / "small-timm")


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reviews(tmp_path_factory.mktemp("data") / "reviews.csv")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_images(tmp_path_factory.mktemp("data") / "photos")
