#!/usr/bin/env python3
"""Make a tiny random-weight Llama model, twice: a Hugging Face directory and a GGUF file.

Nothing is downloaded: the tokenizer is a byte-level BPE trained on a text made here, the
weights are random (fixed seed). Both outputs hold the same weights and the same tokenizer, so
llama.cpp, transformers and vLLM give the same greedy continuation. head_dim (hidden/heads) must be
32 or more for vLLM on a CPU; 16 kills its engine at the first request.

A random model ends a reply at a random step and emits broken UTF-8. Here channel 0 of the
residual stream is a constant that no layer writes to, and the output matrix reads it as a
per-token bias: plain words are likely, lone bytes are not, and --eos-bias says how likely the
end-of-turn token is (default: never, so a reply runs to max_tokens; try -1 for random ends).
--raw-bytes leaves the lone bytes likely (broken UTF-8 in the stream, on purpose).

Needs: numpy, tokenizers, safetensors, gguf  (no torch).
  python make_tiny_model.py --out tiny-model            -> tiny-model/hf/ and tiny-model/tiny.gguf
"""

import argparse
import json
import os
import random
from pathlib import Path

import numpy as np

TEXT = (
    "a the of to and in is it you that he was for on are with as his they be at one have this "
    "from or had by hot but some what there we can out other were all your when up use word how "
    "said an each she which do their time if will way about many then them would write like so "
    "these her long make thing see him two has look more day could go come did my sound no most "
    "number who over know water than call first people may down side been now find any new work "
    "part take get place made live where after back little only round man year came show every "
    "good me give our under name very through just form much great think say help low line"
)
WORDS = TEXT.split()

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def make_tokenizer(path, vocab_size):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tok = Tokenizer(models.BPE(byte_fallback=False))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    rnd = random.Random(7)
    text = [" ".join(rnd.choice(WORDS) for _ in range(40)) + "." for _ in range(2000)]
    tok.train_from_iterator(
        text,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=SPECIAL,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tok.save(path)
    j = json.loads(Path(path).read_text())
    vocab = j["model"]["vocab"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in j["model"]["merges"]]
    tokens = [None] * len(vocab)
    for t, i in vocab.items():
        tokens[i] = t
    return tokens, merges


def make_weights(a, tokens):
    rng = np.random.default_rng(a.seed)
    d, ff, hd = a.hidden, a.ff, a.hidden // a.heads
    V = len(tokens)

    def mat(o, i, s):
        return (rng.standard_normal((o, i)) * s).astype(np.float32)

    w = {}
    emb = mat(V, d, 1.0)
    emb[:, 0] = 4.0  # the constant channel
    w["model.embed_tokens.weight"] = emb
    for n in range(a.layers):
        p = f"model.layers.{n}."
        w[p + "input_layernorm.weight"] = np.ones(d, np.float32)
        w[p + "post_attention_layernorm.weight"] = np.ones(d, np.float32)
        w[p + "self_attn.q_proj.weight"] = mat(a.heads * hd, d, d**-0.5)
        w[p + "self_attn.k_proj.weight"] = mat(a.kv_heads * hd, d, d**-0.5)
        w[p + "self_attn.v_proj.weight"] = mat(a.kv_heads * hd, d, d**-0.5)
        w[p + "self_attn.o_proj.weight"] = mat(d, a.heads * hd, d**-0.5)
        w[p + "mlp.gate_proj.weight"] = mat(ff, d, d**-0.5)
        w[p + "mlp.up_proj.weight"] = mat(ff, d, d**-0.5)
        w[p + "mlp.down_proj.weight"] = mat(d, ff, ff**-0.5)
        w[p + "self_attn.o_proj.weight"][0] = 0  # nobody writes to channel 0
        w[p + "mlp.down_proj.weight"][0] = 0
    w["model.norm.weight"] = np.ones(d, np.float32)
    head = mat(V, d, 2.5 * d**-0.5)
    for i, t in enumerate(tokens):
        word = len(t) > 2 and t.startswith("\u0120") and t[1:].isalpha() and t.isprintable()
        head[i, 0] = 2.0 if word else (2.0 if a.raw_bytes and len(t) == 1 else -6.0)
    head[0, 0] = head[1, 0] = -20.0
    head[2, 0] = a.eos_bias  # <|im_end|>
    w["lm_head.weight"] = head
    return w


def write_hf(a, path, tokens, w):
    from safetensors.numpy import save_file

    save_file(w, os.path.join(path, "model.safetensors"), metadata={"format": "pt"})
    cfg = dict(
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        hidden_size=a.hidden,
        intermediate_size=a.ff,
        num_hidden_layers=a.layers,
        num_attention_heads=a.heads,
        num_key_value_heads=a.kv_heads,
        head_dim=a.hidden // a.heads,
        vocab_size=len(tokens),
        max_position_embeddings=a.ctx,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        hidden_act="silu",
        tie_word_embeddings=False,
        attention_bias=False,
        mlp_bias=False,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=0,
        torch_dtype="float32",
        dtype="float32",
    )
    gen = dict(bos_token_id=0, eos_token_id=2, pad_token_id=0, do_sample=False)
    tkc = dict(
        tokenizer_class="PreTrainedTokenizerFast",
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[0],
        model_max_length=a.ctx,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
    for name, obj in (("config", cfg), ("generation_config", gen), ("tokenizer_config", tkc)):
        Path(path, name + ".json").write_text(json.dumps(obj, indent=1))
    Path(path, "chat_template.jinja").write_text(CHAT_TEMPLATE)


def write_gguf(a, path, tokens, merges, w):
    import gguf

    g = gguf.GGUFWriter(path, "llama")
    g.add_name(a.name)
    g.add_context_length(a.ctx)
    g.add_embedding_length(a.hidden)
    g.add_block_count(a.layers)
    g.add_feed_forward_length(a.ff)
    g.add_head_count(a.heads)
    g.add_head_count_kv(a.kv_heads)
    g.add_layer_norm_rms_eps(1e-5)
    g.add_rope_dimension_count(a.hidden // a.heads)
    g.add_rope_freq_base(10000.0)
    g.add_vocab_size(len(tokens))
    g.add_file_type(gguf.LlamaFileType.ALL_F32)
    g.add_tokenizer_model("gpt2")
    g.add_tokenizer_pre("gpt-2")
    g.add_token_list(tokens)
    g.add_token_types([gguf.TokenType.CONTROL if t in SPECIAL else gguf.TokenType.NORMAL for t in tokens])
    g.add_token_merges(merges)
    g.add_bos_token_id(0)
    g.add_eos_token_id(2)
    g.add_pad_token_id(0)
    g.add_add_bos_token(False)
    g.add_chat_template(CHAT_TEMPLATE)

    def permute(x, heads):  # HF rotary layout -> llama.cpp's
        o, i = x.shape
        return x.reshape(heads, 2, o // heads // 2, i).swapaxes(1, 2).reshape(o, i)

    names = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    g.add_tensor("token_embd.weight", w["model.embed_tokens.weight"])
    for n in range(a.layers):
        for hf, gg in names.items():
            x = w[f"model.layers.{n}.{hf}.weight"]
            if gg == "attn_q":
                x = permute(x, a.heads)
            elif gg == "attn_k":
                x = permute(x, a.kv_heads)
            g.add_tensor(f"blk.{n}.{gg}.weight", np.ascontiguousarray(x))
    g.add_tensor("output_norm.weight", w["model.norm.weight"])
    g.add_tensor("output.weight", w["lm_head.weight"])
    g.write_header_to_file()
    g.write_kv_data_to_file()
    g.write_tensors_to_file()
    g.close()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--out", default="tiny-model")
    p.add_argument("--name", default="tiny-random-llama")
    p.add_argument("--hidden", type=int, default=128)
    p.add_argument("--ff", type=int, default=256)
    p.add_argument("--layers", type=int, default=2)
    p.add_argument("--heads", type=int, default=4)
    p.add_argument("--kv-heads", type=int, default=2)
    p.add_argument("--ctx", type=int, default=8192)
    p.add_argument("--vocab", type=int, default=512)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--eos-bias", type=float, default=-20.0)
    p.add_argument("--raw-bytes", action="store_true")
    a = p.parse_args()
    hf = os.path.join(a.out, "hf")
    os.makedirs(hf, exist_ok=True)
    tokens, merges = make_tokenizer(os.path.join(hf, "tokenizer.json"), a.vocab)
    w = make_weights(a, tokens)
    write_hf(a, hf, tokens, w)
    gg = os.path.join(a.out, "tiny.gguf")
    write_gguf(a, gg, tokens, merges, w)
    print(f"{len(tokens)} tokens, {sum(x.size for x in w.values())} weights")
    print(hf, os.path.getsize(os.path.join(hf, "model.safetensors")), "bytes")
    print(gg, os.path.getsize(gg), "bytes")


if __name__ == "__main__":
    main()
