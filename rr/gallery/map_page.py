"""`rr embed --map`: an HTML page with an interactive t-SNE map of the images in a folder."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from rr.data import raw
from rr.data.image_decoding import decode_image
from rr.data.printable_names import display_name, printable
from rr.errors import UserError
from rr.evaluate.embedding import NUM_MAP_NEIGHBORS, compute_tsne
from rr.evaluate.similarity import nearest_other_images, normalize_rows
from rr.gallery.images import ImageFile, read_images
from rr.report.jinja import make_jinja_environment
from rr.report.plots.image_map import (
    MAX_IMAGES,
    TEMPLATES,
    TILE_SIZE,
    ImageMap,
    MapLayer,
    content_security_policy_hash,
    image_map_script,
    make_sprite,
    read_asset,
)
from rr.runtime.ordered_map import DECODING_THREADS, map_ordered

_MIN_IMAGES = 4  # for t-SNE with a perplexity of at least 1, as for the `embedding` protocol
_PERPLEXITY = 30.0
_NUM_VOTES = 10


def check_image_count(count: int, folder: Path) -> None:
    """Raise UserError if a folder has too few images for a map."""
    if count < _MIN_IMAGES:
        raise UserError(
            f"--map: a map needs at least {_MIN_IMAGES} images, but {display_name(folder)} has {count}: add images, or "
            "omit --map"
        )


def render_map_page(folder: Path, images: list[ImageFile], vectors: np.ndarray) -> str:
    """Return the HTML of a page with a map of images.

    An image's class is the first-level subfolder that contains it, and its prediction is the most frequent class among
    its 10 nearest images. Images directly in `folder` have no class. If there are more than 10,000 images, the map
    shows a random sample of them.

    `vectors` are the features of the images, float32 (N, D).

    Raises:
        UserError: if there are fewer than four images, or if an image can no longer be read.
    """
    check_image_count(len(images), folder)
    rows = np.sort(np.random.default_rng(0).permutation(len(images))[:MAX_IMAGES])
    normalized = normalize_rows(vectors[rows])
    sampled_images = [images[row] for row in rows]
    folders = [PurePosixPath(image.name).parts[:-1] for image in sampled_images]
    label_by_folder = {name: label for label, name in enumerate(sorted({parts[0] for parts in folders if parts}))}
    labels = np.array([label_by_folder[parts[0]] if parts else raw.UNLABELED for parts in folders])
    voters = nearest_other_images(normalized, _NUM_VOTES)
    layer = MapLayer(
        "map",
        compute_tsne(normalized, _PERPLEXITY, seed=0),
        voters[:, :NUM_MAP_NEIGHBORS],
        _vote(labels[voters]) if len(label_by_folder) > 1 else None,
    )
    read_thumbnails = partial(read_images, decode=partial(decode_image, image_size=TILE_SIZE))
    thumbnails = map_ordered(read_thumbnails, [[image.path] for image in sampled_images], DECODING_THREADS)
    sprite = make_sprite([pixels for (pixels,) in thumbnails])
    names = [display_name(image.name) for image in sampled_images]
    class_names = [printable(name) for name in label_by_folder]
    image_map = ImageMap("map", class_names, labels, names, sprite, [layer], "(nearest images)")
    selection = "" if len(rows) == len(images) else f", a random sample of the {len(images):,} images in the folder"
    script = image_map_script()
    template = make_jinja_environment(TEMPLATES, autoescape=True).get_template("image_map_page.html")
    return template.render(
        title=f"Map of {display_name(folder)}",
        note=f"t-SNE map of the features of {len(rows):,} images{selection}. It shows which images are neighbors; the "
        "sizes of groups and the distances between them have no meaning.",
        map=image_map,
        style=read_asset("colors.css") + read_asset("image_map.css"),
        script=script,
        content_security_policy_hash=content_security_policy_hash(script),
    )


def _vote(labels: np.ndarray) -> np.ndarray:
    """Return the most frequent class in each row of labels (N, K), int64 (N,); -1 if all labels are missing.

    If several classes are tied for the most votes, the one with the nearest image is returned.
    """
    counts = [Counter(label for label in row if label != raw.UNLABELED) for row in labels.tolist()]
    return np.array([count.most_common(1)[0][0] if count else raw.UNLABELED for count in counts])
