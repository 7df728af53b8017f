"""handful's mini-batches under Lightning: cut off in mid-epoch, resumed by one integer, the same weights to the bit."""

import logging
import tempfile

import lightning
import torch

import handful

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
source = handful.open("digits", target="target")


class Digits(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))

    def forward(self, batch):
        return self.net(batch["image"].flatten(1).float() / 16)

    def training_step(self, batch, index):
        return torch.nn.functional.cross_entropy(self(batch), batch["target"])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


def train(steps, checkpoint=None):
    """`steps` in all; from a checkpoint, which holds the loader's position beside the weights, the rest of them."""
    loader = handful.Loader(handful.Batches(source, handful.Order(len(source), seed=0)), size=64)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(max_steps=steps, enable_checkpointing=False, default_root_dir=folder, **quiet)
    trainer.fit(model := Digits(), loader, ckpt_path=checkpoint)
    trainer.save_checkpoint(f"{folder}/{steps}.ckpt")
    return model, loader


with tempfile.TemporaryDirectory() as folder:
    whole, _ = train(300)
    train(70)  # cut off here: 12 mini-batches into the third of epochs of 29
    resumed, loader = train(300, f"{folder}/70.ckpt")
equal = all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters()))
accuracy = (resumed(b := source.take(range(len(source)))).argmax(1) == b["target"]).float().mean().item()
print(f"position {loader.position:,}; weights equal: {equal}; accuracy on the training rows {accuracy:.1%}")
if not equal or accuracy < 0.98:
    raise SystemExit("missed the target: the weights of the run that was not cut off, and 98% of the rows")
