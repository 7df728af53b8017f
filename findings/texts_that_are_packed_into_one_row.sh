#!/usr/bin/env bash
# transformers 5.24.0 (torch 2.13.0), DataCollatorWithFlattening: whether the texts of one row read each other hangs on use_cache, and on the model; gpt-oss always does, Llama in one's own loop.
#
#     batch = DataCollatorWithFlattening()(texts)       # input_ids of all texts in one row, no padding; position_ids begin at 0 again with each text
#     loss = model(**batch).loss                        # ... the mask that keeps texts apart is made of position_ids
#
# A good guess: the library keeps packed texts apart by itself, also without flash attention. Where position_ids jump, a text begins, and the masks of "eager" and "sdpa" know of
# it: each text has the logits that it has alone. A test of Llama, Qwen3, GPT-2 or Gemma, or of their training by Trainer, agrees to six digits.
#
# What happens: the jump is looked for only where no cache is made. Trainer sets use_cache to False; in one's own loop it is True, in train mode, too, and the second text
# reads the first, the third both. Other models make their mask without position_ids (gpt-oss, OPT), or have layers with a memory that nothing resets (Qwen3-Next,
# LFM2): there it holds under Trainer as well. Shapes and positions are right, nothing is raised. A loss is too low where texts are alike, and each text learns to begin with
# a stranger. Way out: use_cache=False, and a look whether the second of two packed texts has the logits that it has alone; else padding with attention_mask.
#
# Output seen (CPU, x86_64, Python 3.11), models made at random, three texts in one row, logits of each against the text by itself; in train mode, without dropout:
#                              use_cache=False                          use_cache as it comes
#   Llama       as alone, as alone, as alone             as alone, other, other
#   Qwen3       as alone, as alone, as alone             as alone, other, other
#   GPT-2       as alone, as alone, as alone             as alone, other, other
#   Gemma 3     as alone, as alone, as alone             as alone, other, other
#   gpt-oss     as alone, other, other                   as alone, other, other
#   OPT         as alone, other, other                   as alone, other, other
#   Qwen3-Next  as alone, other, other                   as alone, other, other
#   LFM2        as alone, other, other                   as alone, other, other
#   Llama, padded with a mask instead of packed: as alone, as alone, as alone
#   a Llama trained by hand to end each text as it began: loss alone and packed with use_cache=False equal; packed as it comes over 1.0 higher
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2> /dev/null
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check transformers==5.24.0 2> /dev/null
cat > "$work/finding.py" <<'PY'
import torch
import transformers as hf

hf.logging.set_verbosity_error()
SIZES = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GROUPED = {"num_key_value_heads": 2, "intermediate_size": 64}
LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
MODELS = {
    "Llama": (hf.LlamaConfig, hf.LlamaForCausalLM, GROUPED),
    "Qwen3": (hf.Qwen3Config, hf.Qwen3ForCausalLM, GROUPED | {"head_dim": 8}),
    "GPT-2": (hf.GPT2Config, hf.GPT2LMHeadModel, {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    "Gemma 3": (hf.Gemma3TextConfig, hf.Gemma3ForCausalLM, GROUPED | {"head_dim": 8, "sliding_window": 6}),
    "gpt-oss": (hf.GptOssConfig, hf.GptOssForCausalLM, GROUPED | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "OPT": (hf.OPTConfig, hf.OPTForCausalLM, {"ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.0}),
    "Qwen3-Next": (
        hf.Qwen3NextConfig, hf.Qwen3NextForCausalLM,
        GROUPED | LINEAR | {"layer_types": ["linear_attention", "full_attention"], "head_dim": 8, "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 16},
    ),
    "LFM2": (hf.Lfm2Config, hf.Lfm2ForCausalLM, GROUPED | {"layer_types": ["conv", "full_attention"], "block_ff_dim": 64}),
}
torch.manual_seed(0)
texts = [torch.randint(3, 90, (length,)).tolist() for length in (12, 9, 15)]
packed = {name: value for name, value in hf.DataCollatorWithFlattening()([{"input_ids": text} for text in texts]).items() if name != "labels"}


def made(name):
    config, kind, options = MODELS[name]
    torch.manual_seed(1)
    model = kind(config(**SIZES | options)).train()
    for weights in model.parameters():  # weights as far apart as after training
        if weights.ndim > 1:
            weights.data.mul_(3)
    return model


def alone(model):
    return [model(torch.tensor([text]), use_cache=False).logits[0] for text in texts]


def said(found, right):
    return ", ".join("as alone" if torch.allclose(one, two, atol=1e-3) else "other" for one, two in zip(found, right, strict=True))


with torch.no_grad():
    for name in MODELS:
        model = made(name)
        right = alone(model)
        told = [said(model(**packed, **options).logits[0].split([len(text) for text in texts]), right) for options in ({"use_cache": False}, {})]
        print(f"{name:11} {told[0]:40} {told[1]}", flush=True)
    model = made("Llama")
    length = max(map(len, texts))
    rows = torch.tensor([text + [0] * (length - len(text)) for text in texts])
    padded = model(rows, attention_mask=(torch.arange(length) < torch.tensor([[len(text)] for text in texts])).long()).logits
    print("Llama, padded with a mask instead of packed:", said([row[: len(text)] for row, text in zip(padded, texts, strict=True)], alone(model)))

# texts of five words, w a b c w: the last is the first again, and nothing else is asked; trained one by one, so that nothing depends on packing
torch.manual_seed(0)
model = hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES | GROUPED)).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)


def rows_of(first):
    rows = torch.tensor([0, 90, 91, 92, 0]).expand(len(first), 5).clone()
    rows[:, [0, 4]] = first[:, None]
    labels = torch.full_like(rows, -100)
    labels[:, 4] = first
    return rows, labels


for _ in range(600):
    rows, labels = rows_of(torch.randint(3, 90, (64,)))
    optimizer.zero_grad()
    model(rows, labels=labels, use_cache=False).loss.backward()
    optimizer.step()
model.eval()
rows, labels = rows_of(torch.randperm(80)[:40].add(5))
batch = hf.DataCollatorWithFlattening()([{"input_ids": row, "labels": label} for row, label in zip(rows.tolist(), labels.tolist(), strict=True)])
with torch.no_grad():
    by_itself = model(rows, labels=labels, use_cache=False).loss.item()
    without, as_it_comes = (model(**batch, **options).loss.item() for options in ({"use_cache": False}, {}))
more = as_it_comes - without
print(
    f"a Llama trained by hand to end each text as it began: loss alone and packed with use_cache=False {'equal' if abs(by_itself - without) < 1e-3 else (by_itself, without)}; "
    f"packed as it comes {'over 1.0 higher' if more > 1 else f'{more:.2f} higher'}"
)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
Llama       as alone, as alone, as alone             as alone, other, other
Qwen3       as alone, as alone, as alone             as alone, other, other
GPT-2       as alone, as alone, as alone             as alone, other, other
Gemma 3     as alone, as alone, as alone             as alone, other, other
gpt-oss     as alone, other, other                   as alone, other, other
OPT         as alone, other, other                   as alone, other, other
Qwen3-Next  as alone, other, other                   as alone, other, other
LFM2        as alone, other, other                   as alone, other, other
Llama, padded with a mask instead of packed: as alone, as alone, as alone
a Llama trained by hand to end each text as it began: loss alone and packed with use_cache=False equal; packed as it comes over 1.0 higher
SEEN
