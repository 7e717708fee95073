"""One's own pictures as vectors, and the nearest of them to a picture.

    pictures   lists a folder and decodes its files
    network    a backbone, and the side, mean and std of the pictures it takes
    index      vectors as Parquet, written whole and reused while they are true
    embed      `rr embed`: a folder to such a file
    search     cosine similarity
    retrieve   `rr retrieve`: what is nearest, from an index that it keeps up to date
    page       the same as one HTML page, with page.html

A search is to answer at once: on the way to its answer nothing here imports numba, FFCV, scikit-learn or `rr.params`,
nor torchvision but for its own ResNets.
"""
