#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write the tiny model of the tests and what it must say, with nothing but the standard library.

  make_tiny.py OUT      OUT/tiny: a folder as Hugging Face has it (random weights, byte-level BPE, chatml)
                        OUT/forward.jsonl: {"prompt_tokens", "response_tokens", "expect"}, log-probabilities by plain loops in double
"""
import json, math, os, random, struct, sys

V0, H, F, HEADS, KV, D, LAYERS, CTX = None, 64, 96, 4, 2, 16, 2, 256
rng = random.Random(20)


def alphabet():
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256)); out, n = {}, 0
    for b in range(256):
        if b in keep: out[b] = chr(b)
        else: out[b] = chr(256 + n); n += 1
    return out


def tokenizer():
    table = alphabet(); vocab = {c: i for i, (_, c) in enumerate(sorted(table.items()))}
    sp = table[32]; merges = []
    for a, b in [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), (sp, "t"), (sp + "t", "he"), ("i", "n"), ("e", "r"), (sp, "a"), ("o", "n"), ("r", "e"), ("in", "g")]:
        merges.append([a, b]); vocab[a + b] = len(vocab)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    added = [dict(id=len(vocab) + i, content=s, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True) for i, s in enumerate(special)]
    bl = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True)
    t = dict(version="1.0", truncation=None, padding=None, added_tokens=added, normalizer=None,
             pre_tokenizer=dict(type="Sequence", pretokenizers=[dict(type="Digits", individual_digits=True), bl]), post_processor=None, decoder=bl,
             model=dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None, fuse_unk=False,
                        byte_fallback=False, ignore_merges=False, vocab=vocab, merges=merges))
    return t, len(vocab) + len(special)


def main(out):
    d = os.path.join(out, "tiny"); os.makedirs(d, exist_ok=True)
    tok, V = tokenizer()
    eos = V - 1
    json.dump(tok, open(os.path.join(d, "tokenizer.json"), "w"), ensure_ascii=False)
    tmpl = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
    json.dump(dict(bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>", model_max_length=CTX, chat_template=tmpl),
              open(os.path.join(d, "tokenizer_config.json"), "w"), indent=1)
    json.dump(dict(bos_token_id=V - 2, eos_token_id=eos, pad_token_id=eos), open(os.path.join(d, "generation_config.json"), "w"), indent=1)
    json.dump(dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=H, intermediate_size=F, num_hidden_layers=LAYERS,
                   num_attention_heads=HEADS, num_key_value_heads=KV, head_dim=D, vocab_size=V, max_position_embeddings=CTX, rms_norm_eps=1e-5,
                   rope_theta=10000.0, hidden_act="silu", tie_word_embeddings=True, bos_token_id=V - 2, eos_token_id=eos, torch_dtype="bfloat16"),
              open(os.path.join(d, "config.json"), "w"), indent=1)

    def bf16(x):
        u = struct.unpack("<I", struct.pack("<f", x))[0]
        return (u + 0x7FFF + (u >> 16 & 1)) >> 16
    w = {}
    def add(name, shape, std, mean=0.0): w[name] = (shape, [bf16(rng.gauss(mean, std)) for _ in range(math.prod(shape))])
    add("model.embed_tokens.weight", [V, H], 0.4); add("model.norm.weight", [H], 0.2, 1.0)
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        add(p + "input_layernorm.weight", [H], 0.2, 1.0); add(p + "post_attention_layernorm.weight", [H], 0.2, 1.0)
        for n, o, k in (("self_attn.q_proj", HEADS * D, H), ("self_attn.k_proj", KV * D, H), ("self_attn.v_proj", KV * D, H), ("self_attn.o_proj", H, HEADS * D),
                        ("mlp.gate_proj", F, H), ("mlp.up_proj", F, H), ("mlp.down_proj", H, F)):
            add(p + n + ".weight", [o, k], 1.2 / math.sqrt(k))
    head, data = {"__metadata__": {"format": "pt"}}, b""
    for n, (s, x) in sorted(w.items()):
        b = struct.pack(f"<{len(x)}H", *x); head[n] = dict(dtype="BF16", shape=s, data_offsets=[len(data), len(data) + len(b)]); data += b
    h = json.dumps(head).encode(); h += b" " * (-len(h) % 8)
    open(os.path.join(d, "model.safetensors"), "wb").write(struct.pack("<Q", len(h)) + h + data)

    # the same model by plain loops in double
    val = {n: [struct.unpack("<f", struct.pack("<I", v << 16))[0] for v in x] for n, (s, x) in w.items()}
    def mv(name, x):
        a = val[name]; k = len(x); return [sum(a[r * k + j] * x[j] for j in range(k)) for r in range(len(a) // k)]
    def norm(name, x):
        s = 1 / math.sqrt(sum(v * v for v in x) / len(x) + 1e-5); return [v * s * g for v, g in zip(x, val[name])]
    def rope(x, pos):
        o = list(x)
        for hd in range(len(x) // D):
            for i in range(D // 2):
                a = pos * 10000.0 ** (-2 * i / D); c, s = math.cos(a), math.sin(a); p, q = x[hd * D + i], x[hd * D + i + D // 2]
                o[hd * D + i] = p * c - q * s; o[hd * D + i + D // 2] = q * c + p * s
        return o
    def logprobs(ids):
        cache = [([], []) for _ in range(LAYERS)]; out = []
        for t, tokid in enumerate(ids):
            x = val["model.embed_tokens.weight"][tokid * H:(tokid + 1) * H]
            for l in range(LAYERS):
                p = f"model.layers.{l}."; n = norm(p + "input_layernorm.weight", x)
                q = rope(mv(p + "self_attn.q_proj.weight", n), t); cache[l][0].append(rope(mv(p + "self_attn.k_proj.weight", n), t)); cache[l][1].append(mv(p + "self_attn.v_proj.weight", n))
                att = []
                for hd in range(HEADS):
                    g = hd // (HEADS // KV)
                    s = [sum(q[hd * D + i] * k[g * D + i] for i in range(D)) / math.sqrt(D) for k in cache[l][0]]
                    m = max(s); e = [math.exp(v - m) for v in s]; z = sum(e)
                    att += [sum(e[j] * cache[l][1][j][g * D + i] for j in range(t + 1)) / z for i in range(D)]
                x = [a + b for a, b in zip(x, mv(p + "self_attn.o_proj.weight", att))]
                n = norm(p + "post_attention_layernorm.weight", x)
                g, u = mv(p + "mlp.gate_proj.weight", n), mv(p + "mlp.up_proj.weight", n)
                x = [a + b for a, b in zip(x, mv(p + "mlp.down_proj.weight", [a / (1 + math.exp(-a)) * b for a, b in zip(g, u)]))]
            z = mv("model.embed_tokens.weight", norm("model.norm.weight", x)); m = max(z); lse = m + math.log(sum(math.exp(v - m) for v in z))
            if t + 1 < len(ids): out.append(z[ids[t + 1]] - lse)
        return out
    with open(os.path.join(out, "forward.jsonl"), "w") as f:
        for n in (2, 7, 33, 70):
            ids = [rng.randrange(V) for _ in range(n)]
            f.write(json.dumps(dict(prompt_tokens=ids[:1], response_tokens=ids[1:], expect=[float(f"{v:.8g}") for v in logprobs(ids)])) + "\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__)))
