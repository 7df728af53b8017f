"""What the package says of where it lives. There is no public address yet, and none is made up: whoever publishes names
it, `HANDFUL_ADDRESS=https://example.org/me/handful python -m build`, and the package has its project URLs and a README
whose links lead there; without it, no URLs, and links as they stand in the tree."""

import os
import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

PLACES = {
    "Homepage": "",
    "Documentation": "/tree/main/docs",
    "Changelog": "/blob/main/CHANGELOG.md",
    "Issues": "/issues",
}
PICTURE, LINK = (re.compile(rf"({head}\()(?!https?://|#)([^)]+\))") for head in (r"!\[[^]]*\]", r"\]"))


def urls(address: str) -> dict[str, str]:
    return {name: address + place for name, place in PLACES.items()}


def absolute(text: str, address: str) -> str:
    """The Markdown with links from the root of the tree as links to the address, pictures as files."""
    return LINK.sub(rf"\1{address}/blob/main/\2", PICTURE.sub(rf"\1{address}/raw/main/\2", text))


class CustomMetadataHook(MetadataHookInterface):
    def update(self, metadata: dict[str, object]) -> None:
        address, text = (
            os.environ.get("HANDFUL_ADDRESS", "").rstrip("/"),
            Path(self.root, "README.md").read_text("utf-8"),
        )
        if address:
            metadata["urls"], text = urls(address), absolute(text, address)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
