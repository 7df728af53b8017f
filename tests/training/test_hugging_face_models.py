"""Hugging Face models, small and random, with the loss that they make; tested where `transformers` is installed."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch.utils.data import Dataset

import handful
from handful.base.errors import HandfulError

tf = pytest.importorskip("transformers")
RNG = np.random.default_rng(0)
N = 40
IDS = [torch.tensor(RNG.integers(3, 40, RNG.integers(3, 9))) for _ in range(N)]
WORDS = np.array(["bad", "fair", "good"])[RNG.integers(0, 3, N)]
SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
         "max_position_embeddings": 16, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # fmt: skip
FIT = {"batch": 8, "lr": 0.01, "until": "steps(6)", "quiet": True}


class Rows(Dataset):
    def __init__(self, make):
        self.make = make

    def __len__(self):
        return N

    def __getitem__(self, row):
        return self.make(row)


def made(kind, config, **more):
    torch.manual_seed(0)
    return kind(config(**more))


def gpt():
    sizes = {"vocab_size": 40, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    return made(tf.GPT2LMHeadModel, tf.GPT2Config, **sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)


def both(tmp_path, make, data, **how):
    """A run, and the same stopped after two steps and resumed: to the bit."""
    one, other = make(), make()
    run = handful.fit(one, data, out=tmp_path / "one", **FIT, **how)

    def enough(event, info):
        return "enough" if event == "step" and info["step"] == 2 else None

    handful.fit(other, data, out=tmp_path / "two", callbacks=[enough], **FIT, **how)
    handful.resume(tmp_path / "two", model=other, train=data, quiet=True)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    return run


def padded(rows, fill=0):
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)


def test_sequences_are_classified_by_words_and_masked_by_their_lengths(tmp_path):
    data = {"input_ids": [row.tolist() for row in IDS], "labels": WORDS.tolist()}
    make = lambda: made(tf.BertForSequenceClassification, tf.BertConfig, num_labels=3, **SIZES)
    run = both(tmp_path, make, data, target="labels")
    with torch.no_grad():
        mask = padded([torch.ones_like(row) for row in IDS])
        logits = run.model(input_ids=padded(IDS), attention_mask=mask).logits
    assert run.predict({"input_ids": data["input_ids"]}).tolist() == [
        ["bad", "fair", "good"][k] for k in logits.argmax(1)
    ]
    assert run.evaluate(data)["accuracy"] == pytest.approx((run.predict(data) == WORDS).mean())
    run.export(tmp_path / "model.safetensors")
    again = make()
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(again.classifier.weight, run.model.classifier.weight)


@pytest.mark.parametrize("loss", ["auto", "model"])
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_tokens_are_classified_and_what_is_ignored_counts_for_nothing(loss, micro_batch):
    labels = [torch.cat([torch.tensor([-100]), row[1:] % 4]) for row in IDS]
    data = Rows(lambda row: {"input_ids": IDS[row], "labels": labels[row]})
    model = made(tf.BertForTokenClassification, tf.BertConfig, num_labels=4, **SIZES).double()
    twin = made(tf.BertForTokenClassification, tf.BertConfig, num_labels=4, **SIZES).double()
    how = {"optimizer": "sgd", "l2": 0, "schedule": "constant", "valid": None, "loss": loss, "micro_batch": micro_batch}
    run = handful.fit(model, data, target="labels", **FIT, **how)
    optimizer = torch.optim.SGD(twin.train().parameters(), lr=0.01)
    for k in range(6):
        rows = handful.Order(N, seed=0)[8 * k : 8 * k + 8].tolist()
        ids = [IDS[row] for row in rows]
        mask, y = padded([torch.ones_like(row) for row in ids]), padded([labels[row] for row in rows], -100)
        optimizer.zero_grad()
        twin(input_ids=padded(ids), attention_mask=mask, labels=y).loss.backward()
        optimizer.step()
    for found, due in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, due, rtol=1e-8, atol=1e-10)
    assert run.plan.choices["micro_batch"].value == micro_batch


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_causal_model_shifts_its_labels_itself(tmp_path, micro_batch):
    data = Rows(lambda row: {"input_ids": IDS[row], "labels": IDS[row]})
    run = both(tmp_path, gpt, data, target="labels", micro_batch=micro_batch, valid=None)
    assert run.plan.choices["loss"].value == "model"
    total = places = 0.0
    with torch.no_grad():
        for row in IDS:
            logits = run.model(input_ids=row[None]).logits[0]
            total += float(F.cross_entropy(logits[:-1], row[1:], reduction="sum"))
            places += len(row) - 1
    assert run.evaluate(data) == {"loss": pytest.approx(total / places, rel=1e-5)}
    loaded = handful.load(tmp_path / "one", model=gpt())
    assert loaded.evaluate(data)["loss"] == pytest.approx(total / places, rel=1e-5)


def test_a_model_that_decodes_its_labels(tmp_path):
    config = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2,
              "decoder_start_token_id": 0, "dropout_rate": 0.0}  # fmt: skip
    data = Rows(lambda row: {"input_ids": IDS[row], "labels": IDS[row][: 2 + row % 2]})
    run = both(tmp_path, lambda: made(tf.T5ForConditionalGeneration, tf.T5Config, **config), data, target="labels")
    with torch.no_grad():
        parts = [run.model(input_ids=IDS[row][None], labels=IDS[row][None, : 2 + row % 2]) for row in range(N)]
    total = sum(float(part.loss) * (2 + row % 2) for row, part in enumerate(parts))
    assert run.evaluate(data)["loss"] == pytest.approx(total / sum(2 + row % 2 for row in range(N)), rel=1e-5)
    with pytest.raises(HandfulError, match="the model decodes its labels"):
        run.predict(data)


def test_a_classifier_that_has_a_decoder_predicts_without_labels():
    config = {"vocab_size": 40, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16,
              "encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 16, "dropout": 0.0,
              "max_position_embeddings": 16, "num_labels": 3, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
    ids = torch.cat([torch.stack([row[:3] for row in IDS]), torch.full((N, 1), 2)], 1)
    data = Rows(lambda row: {"input_ids": ids[row], "labels": row % 3})
    run = handful.fit(made(tf.BartForSequenceClassification, tf.BartConfig, **config), data, loss="model", **FIT)
    with torch.no_grad():
        due = run.model(input_ids=ids).logits.argmax(1)
    assert run.predict(data).tolist() == due.tolist()


def test_a_forecaster_has_its_future_values_for_a_target():
    config = {"num_input_channels": 2, "context_length": 16, "patch_length": 4, "patch_stride": 4, "d_model": 8,
              "prediction_length": 4, "num_attention_heads": 2, "num_hidden_layers": 1, "ffn_dim": 8}  # fmt: skip
    series = torch.tensor(RNG.normal(size=(N, 20, 2)), dtype=torch.float32)
    data = Rows(lambda row: {"past_values": series[row, :16], "future_values": series[row, 16:]})
    run = handful.fit(made(tf.PatchTSTForPrediction, tf.PatchTSTConfig, **config), data, loss="model", **FIT)
    with torch.no_grad():
        due = run.model(past_values=series[:, :16]).prediction_outputs
    alone = run.predict(Rows(lambda row: {"past_values": series[row, :16]}))
    torch.testing.assert_close(torch.as_tensor(alone), due)
    assert run.evaluate(data)["mae"] == pytest.approx(float((due - series[:, 16:]).abs().mean()), rel=1e-5)


def test_ids_alone_that_are_padded_on_the_left_are_masked_there():
    ids = torch.nn.utils.rnn.pad_sequence(list(IDS), batch_first=True, padding_side="left")
    model = made(tf.BertForSequenceClassification, tf.BertConfig, num_labels=3, pad_token_id=0, **SIZES)
    run = handful.fit(model, (ids, WORDS), **FIT)
    with torch.no_grad():
        due = run.model(input_ids=ids, attention_mask=(ids > 0).long()).logits
    torch.testing.assert_close(run.outputs(ids).logits, due)


def test_pictures(tmp_path):
    pictures = RNG.random((N, 3, 8, 8)).astype("float32")
    config = {k: v for k, v in SIZES.items() if k not in ("vocab_size", "max_position_embeddings")}
    make = lambda: made(tf.ViTForImageClassification, tf.ViTConfig, num_labels=3, image_size=8, patch_size=4, **config)
    run = both(tmp_path, make, {"pixel_values": pictures, "labels": WORDS}, target="labels")
    with torch.no_grad():
        found = run.model(pixel_values=torch.tensor(pictures)).logits.argmax(1)
    assert run.predict({"pixel_values": pictures}).tolist() == np.array(["bad", "fair", "good"])[found].tolist()


def test_labels_without_times(tmp_path):
    config = {"vocab_size": 10, "conv_dim": (8, 8), "conv_stride": (5, 2), "conv_kernel": (10, 3), "pad_token_id": 0,
              "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
              "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
              "hidden_dropout": 0.0, "attention_dropout": 0.0, "apply_spec_augment": False, "layerdrop": 0.0,
              "activation_dropout": 0.0, "feat_proj_dropout": 0.0, "final_dropout": 0.0}  # fmt: skip
    waves = [torch.tensor(RNG.normal(size=200 + 7 * row).astype("float32")) for row in range(N)]
    data = Rows(lambda row: {"input_values": waves[row], "labels": IDS[row][: 2 + row % 2] % 9 + 1})
    run = both(tmp_path, lambda: made(tf.Wav2Vec2ForCTC, tf.Wav2Vec2Config, **config), data, target="labels")
    assert run.plan.choices["loss"].value == "model"
    assert np.isfinite(run.evaluate(data)["loss"])
