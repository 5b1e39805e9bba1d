"""Write a random model in Hugging Face format, where no weights can be downloaded.

    python benchmarks/performance/random_model.py models/random-1b --tokenizer MODEL

The shape of Llama 3.2 1B: 16 layers, hidden 2,048, vocabulary 128,256. `--small` is one to try the scripts on.
"""

import argparse

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--tokenizer", required=True, help="a folder or Hub id; its vocabulary may be smaller")
    parser.add_argument("--small", action="store_true", help="2 layers, hidden 64")
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()
    torch.manual_seed(0)
    shape = (2, 64, 128) if args.small else (16, 2048, 8192)
    config = LlamaConfig(
        vocab_size=128_256,
        num_hidden_layers=shape[0],
        hidden_size=shape[1],
        intermediate_size=shape[2],
        num_attention_heads=4 if args.small else 32,
        num_key_value_heads=2 if args.small else 8,
        max_position_embeddings=131_072,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(getattr(torch, args.dtype)).save_pretrained(args.folder)
    AutoTokenizer.from_pretrained(args.tokenizer).save_pretrained(args.folder)


main()
