#!/usr/bin/env bash
# transformers 5.24.0, output_hidden_states=True: a layer that is put in place after the model's first such call has no hidden state.
#
#   wanted      fine-tuning with the upper layers made anew, a layer swapped for another kind, and features from a given depth: hidden_states[-2],
#               hidden_states[k], a weighted sum of all of them
#   guess       a tuple of one state more than there are layers, whatever layers they are, as the loop over the layers collected them for years
#   found       the states are collected by forward hooks, which are put on the layers at the first call that asks for hidden states, once for the
#               model's life. A layer that comes later has no hook: its state is left out, and all after it move down by one. The tuple is a state
#               shorter; [-2] is that of another layer. The last stays right (it is overwritten by the normalised output), so nothing looks broken
#   who is hit  who looks at a model, or measures features, before the layers are made anew; shapes are alike, so probes and heads train on
#   not so      where nothing was asked for hidden states before: then the new layer gets its hook with the others. Weights loaded into the layer that
#               is there (load_state_dict, reset_parameters) keep it
#   way out     change layers before the first call that asks for hidden states, or put the weights into a new model. To have the hooks put in place
#               again would put a second one on all other layers
#   BertModel, not called before: 5 hidden states; [-2] is of layer 3, [2] of layer 2
#   BertModel, called once before: 4 hidden states; [-2] is of layer 2, [2] of layer 2
#   LlamaModel, not called before: 5 hidden states; [-2] is of layer 3, [2] of layer 2
#   LlamaModel, called once before: 4 hidden states; [-2] is of layer 2, [2] of layer 2
#   ViTModel, not called before: 5 hidden states; [-2] is of layer 3, [2] of layer 2
#   ViTModel, called once before: 4 hidden states; [-2] is of layer 2, [2] of layer 2
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 transformers==5.24.0 2> /dev/null
cat > "$work/finding.py" <<'PY'
import torch, transformers as tf
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.vit.modeling_vit import ViTLayer

tf.logging.set_verbosity_error()
sizes = dict(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16)
words = dict(vocab_size=40, max_position_embeddings=32, pad_token_id=0)
ids = torch.arange(1, 11).reshape(2, 5)
pictures = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
KINDS = {
    "BertModel": (lambda: tf.BertModel(tf.BertConfig(**sizes, **words)), lambda m: m.encoder.layer, lambda m, k: BertLayer(m.config), ids),
    "LlamaModel": (lambda: tf.LlamaModel(tf.LlamaConfig(**sizes, **words)), lambda m: m.layers, lambda m, k: LlamaDecoderLayer(m.config, k), ids),
    "ViTModel": (lambda: tf.ViTModel(tf.ViTConfig(**sizes, image_size=16, patch_size=8)), lambda m: m.layers if hasattr(m, "layers") else m.encoder.layer, lambda m, k: ViTLayer(m.config), pictures),
}


def states(name, called):
    """All hidden states of a model whose third layer was made anew, and what really came out of each layer."""
    torch.manual_seed(0)
    make, layers, new, x = KINDS[name]
    model = make().eval()
    if called:
        model(x, output_hidden_states=True)
    torch.manual_seed(1)
    layers(model)[2] = new(model, 2).eval()
    true = []
    for layer in layers(model):
        layer.register_forward_hook(lambda layer, given, out: true.append(out[0] if isinstance(out, tuple) else out))
    found = model(x, output_hidden_states=True).hidden_states
    return found, true


for name in KINDS:
    for called in (False, True):
        found, true = states(name, called)
        which = [next((f"layer {k + 1}" for k, t in enumerate(true) if torch.equal(t, h)), "?") for h in found]
        print(f"{name}, {'called once before' if called else 'not called before'}: {len(found)} hidden states; [-2] is of {which[-2]}, [2] of {which[2]}")
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore "$work/finding.py" 2> "$work/errors" | tee "$work/seen" || { cat "$work/errors"; exit 1; }
diff "$work/seen" - <<'SEEN'
BertModel, not called before: 5 hidden states; [-2] is of layer 3, [2] of layer 2
BertModel, called once before: 4 hidden states; [-2] is of layer 2, [2] of layer 2
LlamaModel, not called before: 5 hidden states; [-2] is of layer 3, [2] of layer 2
LlamaModel, called once before: 4 hidden states; [-2] is of layer 2, [2] of layer 2
ViTModel, not called before: 5 hidden states; [-2] is of layer 3, [2] of layer 2
ViTModel, called once before: 4 hidden states; [-2] is of layer 2, [2] of layer 2
SEEN
